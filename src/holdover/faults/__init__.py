"""Faults on demand, for people who test cluster software against a LUN of ours.

`fault` is one fault as people write it, `armed` counts and decides which command it strikes, both pure;
`device` is the DeviceServer that stands before a logical unit and does it. Stands on `scsi` alone; `cli` may
import it.
"""
