"""How often Python's threads take the interpreter from one another where a helper's clients are served.

Each thread that waits for the interpreter wakes up once in `sys.getswitchinterval` to ask for it. With 32
clients, a thread for each, that alone took most of a processor. Nobody needs to ask: each lets it go with
every system call.
"""

from __future__ import annotations

__all__ = ["SWITCH_SECONDS"]

SWITCH_SECONDS = 0.05
