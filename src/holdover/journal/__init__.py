"""What an agent must not forget: guests, devices and handovers, on disk before it is acknowledged.

`records` is what is kept; `journal` is the SQLite file and the one thread that writes to it, `memory` the
same without a file; `inspect` reads a file that may be damaged, and changes nothing. Modules with an
underscore are theirs alone.
Stands on nothing of the project: what a body says is its owner's affair. `agent` and `cli` may import it.
"""
