"""Command descriptor blocks: operation codes, each CDB encoded and decoded, and which of them a LUN supports.

Every package may import it; it imports `scsi` alone.
"""
