"""The persistent reservation helper: the door through which QEMU hands over PERSISTENT RESERVE commands.

The protocol (sans-I/O), its server, and the helper that stands alone. May import scsi and paths; used by
agent and cli.
"""
