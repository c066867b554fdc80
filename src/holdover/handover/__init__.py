"""Moving a guest's reservations from one host's I_T nexus to another's: what decides, without I/O.

Stands on guest and scsi; used by agent and cli. A step is a generator: it yields the command that
the LUN of that host shall carry out and is sent the answer, so that the same steps run over
any path, and in a test over a logical unit in memory.
"""
