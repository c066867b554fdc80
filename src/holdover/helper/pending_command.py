"""A command of a client of the helper, until its answer is sent."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.helper.connection import Connection
from holdover.paths.sgio import OpenDevice
from holdover.scsi.command import Command


@dataclass(frozen=True, slots=True, eq=False)
class PendingCommand:
    """A command for whose answer a client waits."""

    connection: Connection
    device: OpenDevice
    command: Command
    began: float

    @property
    def client(self) -> tuple[int, int]:
        """The unit of fairness for turns: the process; for processes of other PID namespaces, the user."""
        peer = self.connection.peer
        return peer.pid, peer.uid
