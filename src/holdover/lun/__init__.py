"""A logical unit that enforces reservations.

`reservations`, `legacy` and `access` are the standard's rules, pure; `operations` is the table of commands,
`block`, `combined`, `provisioning`, `copy`, `sanitize` and `mode` are what they do; `logical_unit` answers
commands by all of these over a medium; `embedded` is the shell with the file, the lock, the threads and the
durable store around it.
Stands on `scsi` alone; `paths`, `agent` and `cli` may import it, `iscsi` is handed it as a DeviceServer.
"""
