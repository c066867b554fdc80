"""Which disk a descriptor is, and the separate process that finds which disks a QEMU has open.

`agent.attach` imports it. It imports `paths`, `helper` and `scsi`.
"""
