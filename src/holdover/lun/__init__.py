"""A logical unit that enforces reservations.

- `reservations`, `legacy` and `access`: the rules of the standards, pure;
- `operations`: the table of commands;
- `block`, `combined`, `provisioning`, `copy`, `sanitize` and `mode`: the work of the commands;
- `logical_unit`: answers commands by all of these, over a medium;
- `embedded`: the shell around it, with the file, the lock, the threads and the durable store.
This package imports only `scsi`; `paths`, `agent` and `cli` may import this package. `iscsi` gets a logical
unit as a DeviceServer.
"""
