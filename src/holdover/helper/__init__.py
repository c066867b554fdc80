"""The persistent reservation helper: the socket by which QEMU hands over PERSISTENT RESERVE commands.

This package has the protocol (without I/O), its server, and the handler of the helper that runs without an
agent. It may import `scsi` and `paths`. `agent` and `cli` import it.
"""
