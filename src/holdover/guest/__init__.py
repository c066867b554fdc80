"""What one guest sees of its disks: the `scsi-block` device with `migrate-pr`, the snoop, the mask, the gate.

This package is pure: it has no I/O and no clock. It imports `scsi` alone. `handover`, `agent` and `cli`
import it.
"""
