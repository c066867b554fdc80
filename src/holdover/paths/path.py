"""What every way to a logical unit offers."""

from __future__ import annotations

from typing import Protocol

from holdover.scsi.command import Command, Response

__all__ = ["AnswerLost", "Path", "PathError"]


class PathError(Exception):
    """The logical unit could not be asked; the command was not sent.

    Attributes:
        path: The path's name, as people write it (a URL).
        problem: What happened.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class AnswerLost(PathError):
    """The command was sent and its answer never came: it may have been carried out, or not."""


class Path(Protocol):
    """A way to one logical unit: one I_T nexus to whoever uses it, whatever it takes to be that."""

    @property
    def name(self) -> str:
        """How people write this path."""
        ...

    @property
    def nexuses(self) -> int:
        """How many I_T nexuses a REGISTER makes registrants of, as far as they can be reached: as often its
        key is then in READ KEYS. More than 1 for multipath devices alone; it may change at any time."""
        ...

    async def execute(self, command: Command) -> Response:
        """Send one command and wait for its answer.

        Raises:
            PathError: The command could not be sent.
            AnswerLost: It was sent, and the answer never came.
        """
        ...

    async def close(self) -> None:
        """Let go of the logical unit; the nexus keeps its registrations."""
        ...
