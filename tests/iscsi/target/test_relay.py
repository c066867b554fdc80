"""Which PDUs of an initiator are relayed; all others are left to the session, with nothing taken for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from msgspec import structs

from holdover.iscsi.initiator.login import InitiatorConfig
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import NO_TAG
from holdover.iscsi.relayed import FarEnd, RelayedCommand
from holdover.iscsi.requests import ScsiCommand, whole_command
from holdover.iscsi.target.events import CommandReceived
from holdover.iscsi.target.relay import CommandRelay
from holdover.scsi.cdbs.cdb import Read, Write
from holdover.scsi.command import Command, Forwarded, Response
from holdover.scsi.status import Status
from tests.iscsi.pair import INITIATOR, ISID, TARGET, Pair

LIMITS = NegotiationLimits(max_recv_data_segment_length=8192, first_burst_length=4096)
READ_CDB, WRITE_CDB = Read(0, 1, 10).encode().ljust(16, b"\0"), Write(0, 1, 10).encode().ljust(16, b"\0")
READ = ScsiCommand(77, 0, READ_CDB, 512, 0, read=True)
WRITE = ScsiCommand(77, 0, WRITE_CDB, 512, 0, write=True, data=bytes(512))


@dataclass
class Far:
    """A session with the target that only notes what it gets."""

    room: int = 1
    immediate_length: int = 8192
    lun: int = 0
    got: list[RelayedCommand] = field(default_factory=list)

    @property
    def session(self) -> Far:
        return self

    def relay(self, command: RelayedCommand, expected: int) -> None:
        assert expected == command.read_length + len(command.data)
        self.room -= 1
        self.got.append(command)

    def begun(self) -> None:
        pass

    def ended(self) -> None:
        pass

    def flush_soon(self) -> None:
        pass

    def ordinary(
        self, relayed: RelayedCommand, command: Command, answered: Callable[[Response], None]
    ) -> Forwarded:
        raise NotImplementedError


class Export:
    """A session that relays to `far`, as soon as it is logged in."""

    def __init__(self) -> None:
        self.pair = Pair(InitiatorConfig(INITIATOR, ISID, TARGET, limits=LIMITS))
        self.pair.run()
        self.session = self.pair.target
        self.far: Far | None = Far()
        self.takes_commands = True
        self.session.relay = CommandRelay(self, self.session, self.session.config.budget).take

    def far_end(self, lun: int) -> FarEnd | None:
        return self.far if lun == 0 else None

    def relayed_ended(self, read_length: int) -> None:
        raise NotImplementedError

    def adopt(
        self, event: CommandReceived, forward: Callable[[Callable[[Response], None]], Forwarded]
    ) -> None:
        raise NotImplementedError

    def send(self, pdu: ScsiCommand, ahead: int = 0) -> bool:
        """Whether that PDU is relayed, with the next CmdSN or one of those after it."""
        cmd_sn = self.session.numbers.exp_cmd_sn + ahead
        self.session.receive_data(b"".join(structs.replace(pdu, cmd_sn=cmd_sn).encode()))
        return bool(self.session.relayed)

    @property
    def used(self) -> int:
        return self.session.config.budget.used


@pytest.mark.parametrize("pdu", [READ, WRITE, structs.replace(WRITE, data=bytes(512), attribute=2)])
def test_a_plain_command_is_relayed(pdu: ScsiCommand) -> None:
    export = Export()
    assert export.send(pdu)
    assert export.far is not None
    (command,) = export.far.got
    assert command.pdu() == structs.replace(pdu, attribute=1)
    assert (export.used, export.session.numbers.open_commands, export.session.open_commands) == (512, 1, 1)


@pytest.mark.parametrize(
    "pdu",
    [
        structs.replace(READ, immediate=True),
        structs.replace(READ, final=False),
        structs.replace(READ, lun=1 << 48),
        structs.replace(READ, expected_length=0),
        structs.replace(READ, expected_length=1 << 20),
        structs.replace(READ, write=True, read_length=512),
        structs.replace(READ, cdb=READ_CDB + b"\0\0\0\0"),
        structs.replace(READ, cdb=bytes(16)),
        structs.replace(READ, task_tag=NO_TAG),
        structs.replace(WRITE, expected_length=1024),
        structs.replace(WRITE, expected_length=0, data=b""),
        structs.replace(WRITE, expected_length=511, data=bytes(511)),
        structs.replace(WRITE, expected_length=8192, data=bytes(8192)),
    ],
)
def test_others_are_not(pdu: ScsiCommand) -> None:
    assert not Export().send(pdu)


def test_a_command_that_comes_too_early_waits_and_holds_up_those_behind_it() -> None:
    for pdu in (READ, WRITE):
        export = Export()
        assert not export.send(structs.replace(pdu, task_tag=78), ahead=1)
        assert not export.send(pdu)
        tags = [event.tag for event in export.session.events_received() if isinstance(event, CommandReceived)]
        assert tags == [77, 78]
        for tag in tags:
            export.session.respond(tag, Response(Status.GOOD, bytes(512) if pdu is READ else b""))
        assert export.used == 0


def test_commands_behind_others_that_wait_are_not_relayed() -> None:
    export = Export()
    export.takes_commands = False
    assert not export.send(READ)


def test_without_room_in_the_session_with_the_target_a_command_is_not_relayed() -> None:
    export = Export()
    assert export.far is not None
    export.far.room = 0
    assert not export.send(READ)
    export = Export()
    export.far = None
    assert not export.send(READ)


def test_without_room_for_its_data_a_command_is_not_relayed() -> None:
    export = Export()
    budget = export.session.config.budget
    assert budget.take(budget.limit)
    assert not export.send(READ)


def test_a_header_that_is_passed_on_is_what_the_session_would_send() -> None:
    for pdu in (READ, WRITE):
        flags = 0x80 | pdu.read << 6 | pdu.write << 5
        header = whole_command(flags, len(pdu.data), 1 << 48, 7, pdu.expected_length, 8, 9, pdu.cdb)
        whole = structs.replace(pdu, lun=1 << 48, task_tag=7, cmd_sn=8, exp_stat_sn=9)
        assert header == whole.encode()[0]
