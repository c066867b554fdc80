"""The pure rules that move a guest's reservations from one host's I_T nexus to another's.

This package imports `guest`, `reservations` and `scsi`; `agent`, `api`, `migrate` and `cli` may import it. A
step is a generator: it yields a command for the LUN and receives the response. So the same steps run over any
path, and in a test over a logical unit in memory.
"""
