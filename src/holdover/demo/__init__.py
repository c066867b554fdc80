"""The demonstration: a guest that writes without pause, an intruder, and a handover between two hosts.

Everything in it is a real process, connected over loopback: one target, two agents, the workload, the
intruder. With ``--vm`` the workload runs in a Linux guest that QEMU live-migrates. Only `cli` uses it.
"""
