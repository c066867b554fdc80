"""Commands that are sent without a task for each.

So one to each of many LUNs goes in one write, and those of a guest cost little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeGuard

from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.scsi.command import Command, Response
from holdover.scsi.path import Awaited, Path, PathError


@dataclass(frozen=True, slots=True)
class Submitted:
    """A command that is under way.

    Attributes:
        ended: Done when the command has ended, with its response or an error.
        explain: What `Path.execute` raises for that error.
    """

    ended: asyncio.Future[Response]
    explain: Callable[[Exception], PathError]

    def result(self) -> Response:
        """The response of a command that has ended.

        Raises:
            PathError, AnswerLost: As `Path.execute`.
        """
        try:
            return self.ended.result()
        except Exception as error:
            raise self.explain(error) from error


class Submits(Protocol):
    """A path that can send a command without waiting."""

    def submit(self, command: Command) -> Submitted | None:
        """Send one command; None, and nothing is sent, if that is not possible without waiting.

        If the future is cancelled, the command is aborted. The future then does not tell its end.
        """
        ...


class Forwards(Protocol):
    """A path that can send a command without waiting, and tells its end by a call."""

    def forward(self, command: Command, awaited: Awaited) -> Callable[[], Awaitable[None]] | None:
        """Send one command; None, and nothing is sent, if that is not possible without waiting.

        Returns:
            A function that aborts the command. It returns when the command does nothing more.
        """
        ...

    def explain(self, error: Exception) -> PathError:
        """What `Path.execute` raises for an error that `Awaited.failed` got."""
        ...


class Relays(Forwards, Protocol):
    """A path to which plain commands can be relayed, from a session at an export."""

    @property
    def relays(self) -> tuple[IscsiInitiator, int] | None:
        """The initiator and the number of the LUN, if its session takes relayed commands now."""
        ...


# isinstance() with a protocol looks at each of its attributes, and a device asks for five of its paths.


def can_submit(path: Path) -> TypeGuard[Submits]:
    """Whether the path can send a command without waiting."""
    return hasattr(path, "submit")


def can_forward(path: Path) -> TypeGuard[Forwards]:
    """Whether the path can send a command without waiting, and tells its end by a call."""
    return hasattr(path, "forward")


def can_relay(path: Path) -> TypeGuard[Relays]:
    """Whether plain commands can be relayed to the path, while its session takes them."""
    return hasattr(path, "relays") and can_forward(path)
