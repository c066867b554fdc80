"""A world in which a handover can go wrong in every way: for `explore`, which goes through all of it.

Two agents run the machines of `holdover.handover.protocol` and the steps of `holdover.handover.work` on
logical units that follow the project's own rules (`holdover.lun.reservations`). Around them are the guest,
who drives the migration, a third nexus that interferes, and a network. One action is: one command on one LUN,
one message delivered, one event. Faults are counted: a crash of an agent (its command under way may still be
carried out later; what it was about to send may not have been sent), a message lost, doubled or overtaken by
a time limit, a partition, an answer of a LUN that is lost whether or not the command was carried out.

All parts of a world are interned, so that a world is a tuple of small numbers, and what follows from equal
parts is worked out once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from holdover.guest.gate import Gate
from holdover.guest.scsi_block import Tracked
from holdover.handover.moving import UNREGISTERED, MovingLun
from holdover.handover.protocol import Answer, Message
from holdover.handover.work import Work
from holdover.lun.reservations import ReservationState, persistent_reserve_out
from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.reservation_in import Capabilities, ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation_out import ParameterList
from holdover.scsi.status import Status
from holdover.scsi.transport_id import IscsiTransportID


def _nexus(name: str) -> ITNexus:
    return ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1"))


SOURCE_NEXUS, DESTINATION_NEXUS, THIRD_NEXUS = map(_nexus, ("source", "destination", "third"))
NEXUSES = (SOURCE_NEXUS, DESTINATION_NEXUS)
KEY, NEW_KEY, THIRD_KEY, SOURCE_SPARE, DESTINATION_SPARE, FRESH_SPARE = 0xA, 0xB, 0xC, 0x50, 0xD0, 0xF0

GOOD = Response(Status.GOOD)
CONFLICT = Response(Status.RESERVATION_CONFLICT)
LOST = None

AT_SOURCE, STOPPED, AT_DESTINATION = "source", "stopped", "destination"


class Violation(Exception):
    """A promise is broken."""


@dataclass(frozen=True)
class Case:
    """What is so on a LUN before the handover.

    ``third_key``: of a third nexus, 0 for none; it registers after the guest, with APTPL. ``third_holds``:
    the reservation of that ``type`` is its own. ``aptpl``: what the guest asked for.
    """

    type: ReservationType | None
    third_key: int = 0
    third_holds: bool = False
    registered: bool = True
    aptpl: bool = True

    @property
    def tracked(self) -> Tracked:
        if not self.registered:
            return UNREGISTERED
        return Tracked(KEY, self.aptpl, None if self.third_holds else self.type)

    def state(self) -> ReservationState:
        state = ReservationState()
        if self.registered:
            state = out(state, SOURCE_NEXUS, OutServiceAction.REGISTER, 0, KEY, aptpl=self.aptpl)
        if self.third_key:
            state = out(state, THIRD_NEXUS, OutServiceAction.REGISTER, 0, self.third_key)
        if self.type is not None:
            holder = (THIRD_NEXUS, self.third_key) if self.third_holds else (SOURCE_NEXUS, KEY)
            state = out(state, holder[0], OutServiceAction.RESERVE, holder[1], type=self.type)
        return state


@dataclass(frozen=True)
class Bounds:
    """How much may go wrong: faults, actions of the third nexus, changes by the guest; and whether a source
    that has crashed may be declared dead."""

    faults: int = 2
    thirds: int = 0
    changes: int = 0
    dies: bool = False


@dataclass(frozen=True)
class Safeguards:
    """Parts of the design that can be taken away, to see that the model notices."""

    journal: bool = True
    rekey: bool = True
    ask: bool = True
    gate: bool = True


def out(
    state: ReservationState,
    nexus: ITNexus,
    action: OutServiceAction,
    key: int,
    service_key: int = 0,
    type: ReservationType | None = None,
    aptpl: bool = True,
) -> ReservationState:
    outcome = persistent_reserve_out(
        state, nexus, action, ParameterList(key, service_key, aptpl), type=int(type or 0)
    )
    assert outcome.good
    return replace(outcome.state, generation=0)


@cache
def execute(state: ReservationState, nexus: ITNexus, command: Command) -> tuple[ReservationState, Response]:
    """What a LUN does with one of our commands; PRgeneration and unit attentions are left out."""
    if command.opcode == OperationCode.TEST_UNIT_READY:
        return state, GOOD
    if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
        action = PersistentReserveIn.decode(command.cdb).service_action
        if action == InServiceAction.READ_KEYS:
            keys = tuple(sorted(each.key for each in state.registrations))
            return state, Response(Status.GOOD, ReadKeys(0, keys).encode())
        if action == InServiceAction.REPORT_CAPABILITIES:
            capabilities = Capabilities(crh=False, sip_c=False, atp_c=False, ptpl_c=True, ptpl_a=state.aptpl)
            return state, Response(Status.GOOD, capabilities.encode())
        held = state.reservation
        found = None
        if held is not None:
            found = Reservation(0 if held.holder is None else state.key_of(held.holder), held.type)
        return state, Response(Status.GOOD, ReadReservation(0, found).encode())
    cdb = PersistentReserveOut.decode(command.cdb)
    outcome = persistent_reserve_out(
        state,
        nexus,
        OutServiceAction(cdb.service_action),
        ParameterList.decode(command.data_out),
        type=cdb.type,
        scope=cdb.scope,
    )
    if outcome.good:
        return replace(outcome.state, generation=0), GOOD
    return state, CONFLICT


class World(NamedTuple):
    """Everything at one instant; numbers name interned parts of the `Model`, -1 is none.

    Tasks are () for none, ("work", progress of each LUN) or ("tell", number); a work's progress is interned.
    ``dead``: the source's host is, as its operator says, and the guest with it. ``net`` holds messages and
    answers on their way, ``late`` commands of a crashed agent that may still
    be carried out: (agent, LUN, command). ``truth`` is what the guest has established and nobody taken;
    where ``open_end``, a third has preempted its key while one of its nexuses had another one for a moment:
    then to be removed is as right as to stay. ``ledger`` is the third's key, ``aptpl`` what the guest or the
    third asked for last, before all of this; ``gates`` are the source's and the destination's.
    """

    luns: tuple[int, ...]
    source: int
    source_journal: int
    source_up: bool
    source_task: tuple[Any, ...]
    destination: int
    destination_journal: int
    destination_up: bool
    destination_task: tuple[Any, ...]
    net: tuple[int, ...]
    guest: str
    device: tuple[int, ...]
    truth: tuple[int, ...]
    open_end: tuple[bool, ...]
    ledger: tuple[int, ...]
    aptpl: tuple[bool, ...]
    gates: tuple[Gate, Gate]
    faults: int
    thirds: int
    changes: int
    cut: bool
    dead: bool
    late: tuple[tuple[int, int, int], ...]


class Progress(NamedTuple):
    """How far one work on one LUN has come: the answers that it had; ``None`` among them is a lost one."""

    work: Work
    lun: MovingLun
    answers: tuple[Response | None, ...]


class Ended(NamedTuple):
    """A work on one LUN that has ended; ``lun`` is None when it failed."""

    lun: MovingLun | None


WHO = ("source", "destination")


def silent(lun: MovingLun) -> MovingLun:
    return replace(lun, alarm="!" if lun.alarm else "")


def plain_answer(answer: Answer) -> Answer:
    return replace(answer, problem="", luns=tuple(map(silent, answer.luns)))


def with_item(net: tuple[int, ...], item: int) -> tuple[int, ...]:
    return tuple(sorted({*net, item}))


def without_item(net: tuple[int, ...], item: int) -> tuple[int, ...]:
    return tuple(each for each in net if each != item)


def set_item(items: tuple[Any, ...], place: int, item: Any) -> tuple[Any, ...]:
    return (*items[:place], item, *items[place + 1 :])


def kind_of(item: Message | Answer) -> str:
    return item.kind.value if isinstance(item, Message) else "an answer"


def name_of(command: Command) -> str:
    if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
        cdb, data = PersistentReserveOut.decode(command.cdb), ParameterList.decode(command.data_out)
        name = OutServiceAction(cdb.service_action).name
        return f"{name} {data.key:#x} {data.service_action_key:#x}"
    if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
        return InServiceAction(PersistentReserveIn.decode(command.cdb).service_action).name
    return "TEST UNIT READY"
