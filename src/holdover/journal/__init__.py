"""What an agent must not forget: guests, devices and handovers, on disk before it is acknowledged.

- `records`: the data that a journal keeps;
- `journal`: the SQLite file and the one thread that writes to it;
- `memory`: the same interface without a file;
- `inspect`: reads a file that may be damaged, and changes nothing.

Only this package imports its modules whose names begin with an underscore. This package imports nothing else
of the project: the owner of a record knows what its body means. `agent` and `cli` may import this package.
"""
