"""A world in which a handover can go wrong in every way: for `explore`, which goes through all of it.

Two agents run the machines of `holdover.handover.protocol` and the steps of `holdover.handover.lun_work.work`
on logical units that follow the project's own rules (`holdover.lun.reservations`). Around them are the guest,
who drives the migration, a third nexus that interferes, and a network. One action is: one command on one LUN,
one message delivered, one event. Faults are counted: a crash of an agent (its command under way may still be
carried out later; what it was about to send may not have been sent), a message lost, doubled or overtaken by
a time limit, a partition, an answer of a LUN that is lost whether or not the command was carried out.

All parts of a world are interned, so that a world is a tuple of small numbers, and what follows from equal
parts is worked out once.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.effects import EffectKind
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.work import Work
from holdover.handover.protocol import Answer, Message
from holdover.lun.reservations import ReservationState, persistent_reserve_out
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import (
    Capabilities,
    FullStatus,
    FullStatusDescriptor,
    ReadKeys,
    ReadReservation,
    Reservation,
)
from holdover.scsi.reservation.reservation_out import ParameterList, out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.status import Status
from tests.handover.multipath import Paths, carry_out, paths_of
from tests.lun.support import LACKING, is_read_full_status


def nexus_of(name: str) -> ITNexus:
    return ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{name}", b"\x80\0\0\0\0\1"))


THIRD_NEXUS = nexus_of("third")
KEY, NEW_KEY, THIRD_KEY = 0xA, 0xB, 0xC


@dataclass(frozen=True)
class Names:
    """By what a LUN knows a guest: its I_T nexuses on both hosts, and the spare keys of its handover."""

    nexuses: tuple[ITNexus, ITNexus] = (nexus_of("source"), nexus_of("destination"))
    source_spare: int = 0x50
    destination_spare: int = 0xD0
    fresh_spare: int = 0xF0


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
    ``key``: the guest's.
    ``source_paths``, ``destination_paths``: the initiator port of each path of a host, by its number; empty
    for a host that is one I_T nexus. ``source_up``, ``destination_up``: which of them can be used at the
    beginning; empty for all. ``by_port``: the LUN keeps one registration for each initiator port.
    ``full_status``: it has READ FULL STATUS.
    """

    type: ReservationType | None
    third_key: int = 0
    third_holds: bool = False
    registered: bool = True
    aptpl: bool = True
    key: int = KEY
    source_paths: tuple[int, ...] = ()
    destination_paths: tuple[int, ...] = ()
    source_up: tuple[bool, ...] = ()
    destination_up: tuple[bool, ...] = ()
    by_port: bool = False
    full_status: bool = True

    @property
    def tracked(self) -> Tracked:
        if not self.registered:
            return UNREGISTERED
        return Tracked(self.key, self.aptpl, None if self.third_holds else self.type)

    @property
    def paths(self) -> tuple[Paths | None, Paths | None]:
        """Of the source and of the destination, before anything was registered."""
        return (
            _paths("source", self.source_paths, self.source_up, self.by_port),
            _paths("destination", self.destination_paths, self.destination_up, self.by_port),
        )

    def begin(
        self, source: ITNexus = Names.nexuses[0], state: ReservationState | None = None
    ) -> tuple[ReservationState, Paths | None]:
        """The LUN and the source's paths when the guest and the third nexus have registered and reserved.

        ``state``: what others have done there before.
        """
        state, paths = state or ReservationState(), self.paths[0]
        if self.registered:
            command = out_command(OutServiceAction.REGISTER, 0, self.key, aptpl=self.aptpl)
            state, paths, _ = execute_by(paths, source, state, command)
        if self.third_key:
            state = out(state, THIRD_NEXUS, OutServiceAction.REGISTER, 0, self.third_key)
        if self.type is not None and self.third_holds:
            state = out(state, THIRD_NEXUS, OutServiceAction.RESERVE, self.third_key, type=self.type)
        elif self.type is not None:
            command = out_command(OutServiceAction.RESERVE, self.key, type=self.type)
            state, paths, _ = execute_by(paths, source, state, command)
        return state, paths


def _paths(host: str, ports: tuple[int, ...], up: tuple[bool, ...], by_port: bool) -> Paths | None:
    return paths_of(host, ports, up=up, by_port=by_port) if ports else None


@dataclass(frozen=True)
class Bounds:
    """How much may go wrong: faults, actions of the third nexus, changes by the guest; whether a source that
    has crashed may be declared dead; how often a path may fail or come back; and whether both agents know how
    to be armed."""

    faults: int = 2
    thirds: int = 0
    changes: int = 0
    dies: bool = False
    flaps: int = 0
    arms: bool = True


@dataclass(frozen=True)
class Safeguards:
    """Parts of the design that can be taken away, to see that the model notices.

    Attributes:
        waits: The parts of the effects that wait for the records.
        announced: The works that wait for the record of their state.
        rekey: A key that a third node has too is not preempted.
        ask: An answer that was lost is not taken for a good one.
        gate: The guest's commands wait while it is handed over.
        picture: What the guest did on the destination counts when it goes back.
        in_time: A recheck is given up only while nothing of it was sent.
        restart_news: What was prepared is compared with the devices and the LUN after a restart.
        adoption: Where the guest runs, its devices know best what it has: they are not told what was noted.
        probes: A restarted source asks its LUNs before the guest's commands pass.
        wonders: An armed source that was restarted asks whether the commit was done.
        is_unsure: An armed destination that was restarted does not assume that it has committed nothing.
        skips: A restarted source uses no message number that it may have used without a record.
    """

    waits: frozenset[EffectKind] = frozenset(EffectKind)
    announced: frozenset[Work] = frozenset(Work)
    rekey: bool = True
    ask: bool = True
    gate: bool = True
    picture: bool = True
    in_time: bool = True
    restart_news: bool = True
    adoption: bool = True
    probes: bool = True
    wonders: bool = True
    is_unsure: bool = True
    skips: bool = True


@cache
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


def _full_status(state: ReservationState) -> FullStatus:
    held = state.reservation
    descriptors = []
    for each in state.registrations:
        holder = held is not None and state.holds(each.nexus)
        descriptors.append(
            FullStatusDescriptor(
                each.key,
                holder,
                each.nexus.initiator,
                each.nexus.target_port,
                type=held.type if holder and held is not None else None,
            )
        )
    return FullStatus(0, tuple(descriptors))


def execute_by(
    paths: Paths | None,
    nexus: ITNexus,
    state: ReservationState,
    command: Command,
    full_status: bool = True,
    most: int | None = None,
) -> tuple[ReservationState, Paths | None, Response | None]:
    """What one command of a host does: by its paths, or by its one nexus. ``most``: see `carry_out`."""
    now = state

    def by(nexus: ITNexus, command: Command) -> Response:
        nonlocal now
        if not full_status and is_read_full_status(command):
            return LACKING
        now, response = execute(now, nexus, command)
        return response

    if paths is None:
        only = by(nexus, command)
        return now, None, only
    after, answer = carry_out(paths, command, by, most)
    return now, after, answer


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
        if action == InServiceAction.READ_FULL_STATUS:
            return state, Response(Status.GOOD, _full_status(state).encode())
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

    Tasks are () for none, ("work", progress of each LUN), ("tell", number), or ("open",) for a gate that
    waits for a record; a work's progress is interned. ``told``: who drives the migration may have heard that
    the handover is committed, and has asked for nothing since.
    ``paths``: those of source and destination to each LUN, -1 for a host that is one nexus.
    ``dead``: the source's host is, as its operator says, and the guest with it. ``net`` holds messages and
    answers on their way, ``late`` commands of a crashed agent that may still be carried out: (agent, LUN,
    command). ``device`` is what the guest's devices on the source track, ``there`` what
    those on the destination do. The journals are what is on disk; they lag behind where the rules let them.
    ``truth`` is what the guest has established and nobody taken; where ``open_end``, a third has preempted
    its key while one of its nexuses had another one for a moment: then to be removed is as right as to stay.
    ``ledger`` is the third's key, ``aptpl`` what the guest or the third asked for last, before all of this;
    ``gates`` are the source's and the destination's.
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
    device_journal: tuple[int, ...]
    there: tuple[int, ...]
    there_journal: tuple[int, ...]
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
    paths: tuple[tuple[int, int], ...]
    flaps: int
    told: bool


_PLACES = {name: place for place, name in enumerate(World._fields)}


def _replaced(world: World, **changes: Any) -> World:
    values = list(world)
    for name, value in changes.items():
        values[_PLACES[name]] = value
    return tuple.__new__(World, values)


# A named tuple's own `_replace` takes three times as long, and an exploration calls it for each transition.
World._replace = _replaced  # type: ignore[method-assign,assignment]


class Progress(NamedTuple):
    """How far one work on one LUN has come: the answers that it had, each with the paths by which the command
    was carried out, which do not count when responses are compared; ``None`` among them is a lost one."""

    work: Work
    lun: LunHandover
    answers: tuple[tuple[Response, tuple[str, ...]] | None, ...]


class Ended(NamedTuple):
    """A work on one LUN that has ended; ``lun`` is None when it failed."""

    lun: LunHandover | None


WHO = ("source", "destination")


def silent(lun: LunHandover) -> LunHandover:
    return lun if lun.alarm in ("", "!") else replace(lun, alarm="!")


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


@cache
def name_of(command: Command) -> str:
    if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
        cdb, data = PersistentReserveOut.decode(command.cdb), ParameterList.decode(command.data_out)
        name = OutServiceAction(cdb.service_action).name
        return f"{name} {data.key:#x} {data.service_action_key:#x}"
    if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
        return InServiceAction(PersistentReserveIn.decode(command.cdb).service_action).name
    return "TEST UNIT READY"
