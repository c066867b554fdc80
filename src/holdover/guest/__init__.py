"""What one guest sees of its disks: ScsiBlock with migrate-pr, the snoop, the mask, the gate.

Pure: no I/O, no clock. Stands on `scsi` alone; `handover`, `agent` and `cli` import it.
"""
