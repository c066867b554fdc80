"""Faults on demand, for people who test cluster software against a LUN of Holdover.

- `fault`: one fault, as people write it; pure;
- `armed`: counts commands, and decides which commands a fault strikes; pure;
- `device`: the DeviceServer that stands before a logical unit and carries the faults out.

This package imports only `scsi`; `cli` may import this package.
"""
