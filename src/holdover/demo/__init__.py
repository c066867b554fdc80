"""The demonstration: a guest that writes without pause, an intruder, and a handover between two hosts.

Everything in it is a real process over loopback: one target, two agents, the workload, the intruder;
with ``--vm`` the workload runs in a Linux guest that QEMU live-migrates. Used by cli alone.
"""
