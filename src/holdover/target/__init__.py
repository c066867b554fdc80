"""`holdover target`: the LUNs, faults, events and control socket of a target that people start.

It uses `lun`, `iscsi` and `faults`; `cli` may import it.
"""
