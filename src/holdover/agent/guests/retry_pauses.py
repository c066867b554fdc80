"""How long an agent waits before it asks a LUN again that did not answer. Pure.

After a power failure, all agents of a site start at the same moment and ask the same SAN. If each of them
asked again after the same time, the SAN would get all questions at once, time after time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

FIRST, LONGEST = 2.0, 30.0
"""In seconds, before they are spread."""


def retry_pauses(name: str) -> Iterator[float]:
    """The pauses before the tries, in seconds, without end: twice as long each time, up to `LONGEST`.

    Each is spread from half to one and a half times that, by a hash: ``name`` tells the hosts, guests and
    LUNs apart, and the same name has the same pauses each time.
    """
    pause, number = FIRST, 0
    while True:
        digest = hashlib.blake2b(f"{name}/{number}".encode(), digest_size=4).digest()
        yield pause * (0.5 + int.from_bytes(digest, "big") / 2**32)
        pause, number = min(pause * 2, LONGEST), number + 1
