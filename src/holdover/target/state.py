"""The state of a running `holdover target`: as a document, and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec
from rich.console import Group
from rich.text import Text

from holdover.faults.armed import ArmedFault
from holdover.iscsi.target.target import SessionInfo
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState
from holdover.scsi.inquiry import Designator
from holdover.target.events import Held, Registered, held_of, registered_of
from holdover.terminal import PlainTable

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class ServedState(Protocol):
    """A LUN, as far as this module looks at it."""

    @property
    def state(self) -> ReservationState:
        """The persistent reservations in force."""
        ...

    @property
    def size(self) -> int:
        """The size in bytes."""
        ...

    @property
    def designator(self) -> Designator:
        """The designator by which hosts recognise the LUN."""
        ...


class TargetLun(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one LUN."""

    lun: int
    file: str
    size: int
    designator: str
    generation: int
    aptpl: bool
    registrants: tuple[Registered, ...]
    reservation: Held | None


class SessionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one session."""

    initiator: str
    isid: str
    tsih: int
    peer: str
    portal: str
    open_commands: int


class FaultState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one fault: how many commands it matched, and how many of these it struck."""

    id: int
    fault: str
    fitted: int
    struck: int


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """The whole state of a target."""

    iqn: str
    luns: tuple[TargetLun, ...]
    sessions: tuple[SessionReport, ...]
    faults: tuple[FaultState, ...]


def lun_state(number: int, options: LunOptions, lun: ServedState) -> TargetLun:
    """The state of one LUN now."""
    state = lun.state
    return TargetLun(
        lun=number,
        file=str(options.file),
        size=lun.size,
        designator=str(lun.designator),
        generation=state.generation,
        aptpl=state.aptpl,
        registrants=registered_of(state),
        reservation=held_of(state),
    )


def session_state(session: SessionInfo) -> SessionReport:
    """The state of one session now."""
    return SessionReport(
        initiator=session.initiator,
        isid=f"0x{session.isid.hex()}",
        tsih=session.tsih,
        peer=session.peer,
        portal=session.portal,
        open_commands=session.open_commands,
    )


def fault_states(faults: Iterable[ArmedFault]) -> tuple[FaultState, ...]:
    """The states of faults now."""
    return tuple(
        FaultState(id=each.number, fault=str(each.fault), fitted=each.fitted, struck=each.struck)
        for each in faults
    )


def tables(state: TargetState, *, folds: bool = False) -> Group:
    """Tables of the LUNs with registrants and holders, of the sessions, and of the faults, if any.

    ``folds``: as in `PlainTable`.
    """
    parts: list[PlainTable | str] = [
        _luns_table(state.luns, folds),
        "",
        _sessions_table(state.sessions, folds),
    ]
    if state.faults:
        parts += ["", faults_table(state.faults, folds)]
    return Group(*parts)


def faults_table(faults: tuple[FaultState, ...], folds: bool = False) -> PlainTable:
    """A table of the faults, by their numbers."""
    table = PlainTable("FAULT", "WHAT", "FITTED", "STRUCK", folds=folds)
    for each in faults:
        table.add_row(str(each.id), each.fault, str(each.fitted), str(each.struck))
    return table


def _luns_table(luns: tuple[TargetLun, ...], folds: bool) -> PlainTable:
    table = PlainTable(
        "LUN", "FILE", "SIZE", "GENERATION", "APTPL", "RESERVATION", "REGISTRANT", "KEY", folds=folds
    )
    for lun in luns:
        held = lun.reservation
        head: tuple[str, ...] = (
            str(lun.lun),
            lun.file,
            _size(lun.size),
            str(lun.generation),
            "yes" if lun.aptpl else "no",
            "-" if held is None else held.type,
        )
        if not lun.registrants:
            table.add_row(*head, "nobody", "")
        for each in lun.registrants:
            table.add_row(*head, _registrant(each, held), each.key)
            head = ("",) * len(head)
    return table


def _registrant(registrant: Registered, held: Held | None) -> Text:
    name = registrant.initiator
    if registrant.target_port != 1:
        name += f" at port {registrant.target_port}"
    holds = held is not None and (
        held.initiator is None
        or (held.initiator, held.target_port) == (registrant.initiator, registrant.target_port)
    )
    return Text(f"{name} (holder)", "bold green") if holds else Text(name)


def _sessions_table(sessions: tuple[SessionReport, ...], folds: bool) -> PlainTable:
    table = PlainTable("SESSION", "INITIATOR", "ISID", "FROM", "TO", "COMMANDS", folds=folds)
    for each in sessions:
        row = (str(each.tsih), each.initiator, each.isid, each.peer, each.portal)
        table.add_row(*row, str(each.open_commands))
    if not sessions:
        table.add_row("-", "nobody is logged in", "", "", "", "")
    return table


def _size(size: int) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"
