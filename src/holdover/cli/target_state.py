"""A look into a running `holdover target`: its state as a document, and as tables for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from holdover.cli.console import plain_table
from holdover.cli.target_events import Held, Registered, held_of, registered_of
from holdover.faults.armed import ArmedFault
from holdover.iscsi.target import SessionInfo
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState
from holdover.scsi.inquiry import Designator

__all__ = [
    "FaultState",
    "LunState",
    "ServedState",
    "SessionState",
    "TargetState",
    "fault_states",
    "faults_table",
    "lun_state",
    "session_state",
    "tables",
]

_UNITS = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


class ServedState(Protocol):
    """What this looks at of a LUN."""

    @property
    def state(self) -> ReservationState:
        """The persistent reservations in force."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    @property
    def designator(self) -> Designator:
        """The designator by which hosts recognise it."""
        ...


class LunState(msgspec.Struct, frozen=True, kw_only=True):
    """One LUN."""

    lun: int
    file: str
    size: int
    designator: str
    generation: int
    aptpl: bool
    registrants: tuple[Registered, ...]
    reservation: Held | None


class SessionState(msgspec.Struct, frozen=True, kw_only=True):
    """One session."""

    initiator: str
    isid: str
    tsih: int
    peer: str
    portal: str
    open_commands: int


class FaultState(msgspec.Struct, frozen=True, kw_only=True):
    """One fault: how many commands it fitted, and how many of these it struck."""

    id: int
    fault: str
    fitted: int
    struck: int


class TargetState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything."""

    iqn: str
    luns: tuple[LunState, ...]
    sessions: tuple[SessionState, ...]
    faults: tuple[FaultState, ...]


def lun_state(number: int, options: LunOptions, lun: ServedState) -> LunState:
    """One LUN now."""
    state = lun.state
    return LunState(
        lun=number,
        file=str(options.file),
        size=lun.size,
        designator=str(lun.designator),
        generation=state.generation,
        aptpl=state.aptpl,
        registrants=registered_of(state),
        reservation=held_of(state),
    )


def session_state(session: SessionInfo) -> SessionState:
    """One session now."""
    return SessionState(
        initiator=session.initiator,
        isid=f"0x{session.isid.hex()}",
        tsih=session.tsih,
        peer=session.peer,
        portal=session.portal,
        open_commands=session.open_commands,
    )


def fault_states(faults: Iterable[ArmedFault]) -> tuple[FaultState, ...]:
    """Faults now."""
    return tuple(
        FaultState(id=each.number, fault=str(each.fault), fitted=each.fitted, struck=each.struck)
        for each in faults
    )


def tables(state: TargetState) -> Group:
    """LUNs with their registrants and holders, sessions, and faults where there are any."""
    parts: list[Table | str] = [_luns_table(state.luns), "", _sessions_table(state.sessions)]
    if state.faults:
        parts += ["", faults_table(state.faults)]
    return Group(*parts)


def faults_table(faults: tuple[FaultState, ...]) -> Table:
    """Faults by their numbers."""
    table = plain_table("FAULT", "WHAT", "FITTED", "STRUCK")
    for each in faults:
        table.add_row(str(each.id), escape(each.fault), str(each.fitted), str(each.struck))
    return table


def _luns_table(luns: tuple[LunState, ...]) -> Table:
    table = plain_table("LUN", "FILE", "SIZE", "GENERATION", "APTPL", "RESERVATION", "REGISTRANT", "KEY")
    for lun in luns:
        held = lun.reservation
        head: tuple[str, ...] = (
            str(lun.lun),
            escape(lun.file),
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


def _registrant(registrant: Registered, held: Held | None) -> str:
    name = escape(registrant.initiator)
    if registrant.target_port != 1:
        name += f" at port {registrant.target_port}"
    holds = held is not None and (
        held.initiator is None
        or (held.initiator, held.target_port) == (registrant.initiator, registrant.target_port)
    )
    return f"[bold green]{name} (holder)[/]" if holds else name


def _sessions_table(sessions: tuple[SessionState, ...]) -> Table:
    table = plain_table("SESSION", "INITIATOR", "ISID", "FROM", "TO", "COMMANDS")
    for each in sessions:
        row = (str(each.tsih), escape(each.initiator), each.isid, each.peer, each.portal)
        table.add_row(*row, str(each.open_commands))
    if not sessions:
        table.add_row("-", "nobody is logged in", "", "", "", "")
    return table


def _size(size: int) -> str:
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.4g} {name}"
    return f"{size} B"
