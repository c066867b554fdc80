"""A process that forks one writer of a journal for each line it reads, and tells when that has ended.

``python -m tests.journal.writer``; a line is FILE and ROUND. A writer puts, in several streams at once, a
guest, a device and a state of a handover with the same number, and says ``STREAM NUMBER`` once they are
acknowledged. Forking costs less than starting Python, and the writer can be killed from its first instruction
on.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from pathlib import Path

from holdover.journal.journal import Journal
from tests.journal.support import device, guest, step

STREAMS = 5


async def _stream(journal: Journal, name: str, stream: int) -> None:
    chance = random.Random(f"{name} {stream}")
    number = 0
    while True:
        number += 1
        body = b"%d " % number + b"x" * chance.choice((0, 300, 5000))
        if chance.random() < 0.3:
            await journal.forget(f"{name}-{stream}")
        await journal.put(
            guest(f"{name}-{stream}", uuid=str(number)),
            device(f"{name}-{stream}", body=body),
            step(f"{name}-{stream}", str(number), body=body),
        )
        os.write(1, b"%d %d\n" % (stream, number))


async def _write(file: Path, name: str) -> None:
    journal = Journal.open(file)
    await asyncio.gather(*(_stream(journal, name, stream) for stream in range(STREAMS)))


def main() -> None:
    """Read and fork, until there is no more to read."""
    for line in sys.stdin:
        file, name = line.split()
        pid = os.fork()
        if pid == 0:
            asyncio.run(_write(Path(file), name))
        os.write(1, b"pid %d\n" % pid)
        os.waitpid(pid, 0)
        os.write(1, b"ended\n")


if __name__ == "__main__":
    main()
