"""The interface of every path to a logical unit, and how a command fails without a response.

It stands with the standards, below everything that sends a command: SAM-5 5.1 has the procedure call (Execute
Command) and the failure of its delivery (SERVICE DELIVERY OR TARGET FAILURE) beside status and sense data.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from holdover.scsi.command import Command, Response


class PathError(Exception):
    """The logical unit could not be asked, and the command was not sent.

    Attributes:
        path: The path's name as people write it (a URL or a device).
        problem: What happened.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        self.problem = problem


class AnswerLost(PathError):
    """The command was sent, and no answer came. It may have been carried out, or not."""


class Path(Protocol):
    """A way to one logical unit. To its user it is one I_T nexus, however many nexuses it really has."""

    @property
    def name(self) -> str:
        """The path's name as people write it."""
        ...

    @property
    def nexuses(self) -> int:
        """How many I_T nexuses the device has: its paths, usable or not.

        Only a multipath device has more than 1. The number may change at any time. Only the logical unit can
        tell how many of the nexuses are registered (`Response.carried`).
        """
        ...

    async def execute(self, command: Command) -> Response:
        """Send one command, and wait for its response.

        Raises:
            PathError: The command could not be sent.
            AnswerLost: The command was sent, and no answer came.
        """
        ...

    async def close(self) -> None:
        """Stop using the logical unit. The nexus keeps its registrations."""
        ...


class Awaited(Protocol):
    """Somebody who is told the end of one command, by one of these calls."""

    def answered(self, response: Response) -> None:
        """Take the response."""
        ...

    def failed(self, error: Exception) -> None:
        """Take the reason why there is no response."""
        ...


@runtime_checkable
class HasPort(Protocol):
    """A path that knows its initiator port."""

    @property
    def port(self) -> str:
        """The initiator port as READ FULL STATUS names it."""
        ...
