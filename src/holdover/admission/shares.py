"""How a process divides the descriptors that it may have; pure."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DESCRIPTORS = 1 << 20
_LEAST_RESERVE = 128
_LEAST_CLIENTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How many connections a process takes at once.

    Attributes:
        connections: The connections of the API and the exports together.
        helper_clients: The connections of the helper's sockets together. Each may have a second descriptor:
            the disk of the command that is under way.
    """

    connections: int
    helper_clients: int


def shares(limit: int) -> Shares:
    """The shares of a process that may have ``limit`` descriptors; a negative number is no limit.

    The API and the exports get five eighths, the helper's sockets a quarter. The rest is for disks, paths,
    files, and connections to other agents. With few descriptors the rest is larger.
    """
    if not 0 <= limit <= _MOST_DESCRIPTORS:
        limit = _MOST_DESCRIPTORS
    reserve = max(_LEAST_RESERVE, limit * 3 // 8)
    return Shares(
        connections=max(1, limit - reserve),
        helper_clients=max(_LEAST_CLIENTS, limit // 8),
    )
