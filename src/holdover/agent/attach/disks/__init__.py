"""Which disk a descriptor is, and the separate process that opens disks for the agent.

`agent.attach` imports it. It imports `paths`, `helper` and `scsi`.
"""
