"""Both sessions in one place: bytes go from one to the other without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from holdover.iscsi.initiator.events import InitiatorEvent
from holdover.iscsi.initiator.login import InitiatorConfig
from holdover.iscsi.initiator.session import InitiatorSession
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import TaskManagementResponse
from holdover.iscsi.pdu import DamagedPdu, Pdu, PduReader
from holdover.iscsi.requests import LoginRequest
from holdover.iscsi.responses import LoginResponse
from holdover.iscsi.target.events import (
    CommandReceived,
    LoginCompleted,
    TargetEvent,
    TaskManagementReceived,
)
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.iscsi.text import encode_text
from tests.iscsi.ram import HOLD, RamDisk

TARGET = "iqn.2001-04.com.example:target"
INITIATOR = "iqn.2001-04.com.example:initiator"
ISID = b"\x80\1\2\3\4\5"

Cut = Callable[[bytes], Iterable[bytes]]
"""Cuts a stream into the pieces that arrive."""


def entropy(length: int) -> bytes:
    """Bytes that a test can count on."""
    return bytes(range(1, length + 1))


def whole(data: bytes) -> Iterable[bytes]:
    """No cut."""
    return [data]


class Pair:
    """An initiator's and a target's session over a disk in memory."""

    def __init__(
        self,
        initiator: InitiatorConfig | None = None,
        target: TargetConfig | None = None,
        *,
        cut: Cut = whole,
        initiator_entropy: Callable[[int], bytes] = entropy,
        order: Callable[[list[CommandReceived]], None] = lambda _: None,
    ) -> None:
        self.disk = RamDisk()
        self.initiator = InitiatorSession(
            initiator or InitiatorConfig(INITIATOR, ISID, TARGET), initiator_entropy
        )
        self.target = TargetSession(target or TargetConfig(TARGET), ("127.0.0.1:3260",), entropy)
        self.target_events: list[TargetEvent] = []
        self.initiator_events: list[InitiatorEvent] = []
        self.to_target = b""
        self.to_initiator = b""
        self._cut = cut
        self._order = order

    def run(self) -> list[InitiatorEvent]:
        """Move bytes and carry out commands until nothing more happens; return what the initiator
        was told since the last call."""
        told = len(self.initiator_events)
        while True:
            forth = b"".join(self.initiator.data_to_send())
            for piece in self._cut(forth):
                self.target.receive_data(piece)
            self._serve()
            back = b"".join(self.target.data_to_send())
            for piece in self._cut(back):
                self.initiator.receive_data(piece)
            self.initiator_events += self.initiator.events_received()
            self.to_target += forth
            self.to_initiator += back
            if not forth and not back:
                return self.initiator_events[told:]

    def _serve(self) -> None:
        events = self.target.events_received()
        self.target_events += events
        commands = [event for event in events if isinstance(event, CommandReceived)]
        self._order(commands)
        for command in commands:
            if command.command.opcode != HOLD.opcode:
                self.target.respond(command.tag, self.disk.answer(command.command))
        for event in events:
            if isinstance(event, LoginCompleted):
                self.target.admit(1)
            elif isinstance(event, TaskManagementReceived):
                done = TaskManagementResponse.FUNCTION_COMPLETE
                self.target.answer_task_management(event.tag, done)


class RawInitiator:
    """A target session, logged in, that is sent PDUs made by hand."""

    def __init__(self, config: TargetConfig | None = None, *, offers: dict[str, str] | None = None) -> None:
        self.session = TargetSession(config or TargetConfig(TARGET), ("127.0.0.1:3260",), entropy)
        self.reader = PduReader(1 << 24)
        said = {"InitiatorName": INITIATOR, "TargetName": TARGET, **(offers or {})}
        (answer,) = self.send(self.login_request(said))
        assert isinstance(answer, LoginResponse)
        self.login = answer

    @staticmethod
    def login_request(said: dict[str, str], cmd_sn: int = 1) -> LoginRequest:
        """A login in one step, from operational stage to full feature phase."""
        return LoginRequest(0, ISID, 0, 1, 3, True, encode_text(said.items()), cmd_sn=cmd_sn)

    def send(self, *pdus: Pdu) -> list[Pdu]:
        """Send PDUs; return those that come back. A login is admitted."""
        self.session.receive_data(b"".join(b"".join(pdu.encode()) for pdu in pdus))
        self.events = self.session.events_received()
        if any(isinstance(event, LoginCompleted) for event in self.events):
            self.session.admit(1)
        return self.answers()

    def answers(self) -> list[Pdu]:
        """PDUs that the target has to send."""
        self.reader.feed(b"".join(self.session.data_to_send()))
        found = []
        while (pdu := self.reader.next()) is not None:
            assert not isinstance(pdu, DamagedPdu)
            found.append(pdu)
        return found

    def commands(self) -> list[CommandReceived]:
        """Commands that the last PDUs brought."""
        return [event for event in self.events if isinstance(event, CommandReceived)]


def discovery(limits: NegotiationLimits | None = None) -> InitiatorConfig:
    """An initiator that asks for targets."""
    return InitiatorConfig(INITIATOR, ISID, None, limits=limits or NegotiationLimits())
