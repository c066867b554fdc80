"""How often Python's threads ask for the interpreter, in a process that serves clients of a helper.

Each thread that waits for the interpreter wakes up once in `sys.getswitchinterval` to ask for it. With 32
clients, and a thread for each, this alone took most of a processor. The threads need not ask: each of them
releases the interpreter in every system call.
"""

from __future__ import annotations

SWITCH_SECONDS = 0.05
