"""A hosted guest and its devices: the shell around `guest.ScsiBlock`, with a path and a gate.

It uses `api`, `config`, `guest`, `handover` and `paths`. The rest of `agent` may import it.
"""
