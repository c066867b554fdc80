"""A logical unit that enforces reservations.

`reservations`, `legacy` and `access` are the standard's rules, pure; `logical_unit` answers commands by
them over a medium; `embedded` is the shell with the file, the lock and the durable store around it.
Stands on `scsi` alone; `paths`, `agent` and `cli` may import it, `iscsi` is handed it as a DeviceServer.
"""
