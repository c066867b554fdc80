"""``holdover journal``: what is in an agent's journal, and whether it is whole."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.table import Table
from rich.text import Text

from holdover.cli.console import plain_table, screen
from holdover.cli.errors import refuse
from holdover.journal.inspect import Inspection, inspect
from holdover.journal.journal import JournalError
from holdover.journal.records import DeviceRecord, GuestRecord

__all__ = ["check", "show"]


class _Check(msgspec.Struct, kw_only=True):
    """What ``check --json`` prints."""

    file: str
    whole: bool
    findings: tuple[str, ...]
    transaction: int | None
    open_by: int | None
    guests: int
    devices: int
    handovers: int
    open_handovers: int


class _Device(msgspec.Struct, kw_only=True):
    guest: str
    designator: str
    drive: str
    body: object


class _State(msgspec.Struct, kw_only=True):
    guest: str
    role: str
    peer: str
    state: str
    open: bool
    body: object
    at: float


class _Handover(msgspec.Struct, kw_only=True):
    handover: str
    states: list[_State]


class _Show(msgspec.Struct, kw_only=True):
    """What ``show --json`` prints; handovers in the order of their last change, states oldest first."""

    check: _Check
    guests: tuple[GuestRecord, ...]
    devices: list[_Device]
    handovers: list[_Handover]


def check(file: Path, json: bool) -> None:
    """Say whether a journal is whole; exit status 1 where it is not, 2 where it is none."""
    seen = _inspect(file)
    summary = _summary(seen)
    if json:
        print(msgspec.json.encode(summary).decode())
    else:
        print(f"{file}: {'whole' if summary.whole else 'damaged; readable are'}: {_counts(summary)}")
    _end(seen, json)


def show(file: Path, json: bool) -> None:
    """Show what is readable; exit status 1 where that may not be all, 2 where it is no journal."""
    seen = _inspect(file)
    if json:
        print(msgspec.json.encode(_document(seen)).decode())
    else:
        _print_tables(seen)
    _end(seen, json)


def _inspect(file: Path) -> Inspection:
    try:
        return inspect(file)
    except JournalError as error:
        refuse(str(error))


def _end(seen: Inspection, json: bool) -> None:
    if not seen.findings:
        return
    if not json:
        for finding in seen.findings:
            print(f"holdover: journal {seen.file}: damaged: {finding}", file=sys.stderr)
        print(
            "holdover: an agent refuses this journal; put a good copy in its place, with its -wal and .mark",
            file=sys.stderr,
        )
    sys.exit(1)


def _summary(seen: Inspection) -> _Check:
    contents = seen.contents
    return _Check(
        file=str(seen.file),
        whole=not seen.findings,
        findings=seen.findings,
        transaction=seen.sequence,
        open_by=seen.opener,
        guests=len(contents.guests),
        devices=len(contents.devices),
        handovers=len(contents.handovers),
        open_handovers=sum(handover.open for handover in contents.handovers),
    )


def _counts(summary: _Check) -> str:
    text = (
        f"{_number(summary.guests, 'guest')}, {_number(summary.devices, 'device')}, "
        f"{_number(summary.handovers, 'handover')} ({summary.open_handovers} open)"
    )
    if summary.transaction is not None:
        text += f", as of transaction {summary.transaction}"
    if summary.open_by is not None:
        text += f"; process {summary.open_by or 'of unknown number'} has it open"
    return text


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _body(body: bytes) -> object:
    """A body as what it says; as base64, where it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body


def _document(seen: Inspection) -> _Show:
    newest = (handover.handover for handover in seen.contents.handovers)
    handovers = {handover: _Handover(handover=handover, states=[]) for handover in newest}
    for step in seen.steps:
        handovers[step.handover].states.append(
            _State(
                guest=step.guest,
                role=step.role,
                peer=step.peer,
                state=step.state,
                open=step.open,
                body=_body(step.body),
                at=step.at,
            )
        )
    return _Show(
        check=_summary(seen),
        guests=seen.contents.guests,
        devices=[_device(device) for device in seen.contents.devices],
        handovers=list(handovers.values()),
    )


def _device(device: DeviceRecord) -> _Device:
    return _Device(
        guest=device.guest, designator=device.designator, drive=device.drive, body=_body(device.body)
    )


def _print_tables(seen: Inspection) -> None:
    guests = plain_table("GUEST", "UUID", "MACHINE", "ORIGIN")
    for guest in seen.contents.guests:
        _add(guests, guest.name, guest.uuid or "-", guest.machine, guest.origin)
    devices = plain_table("GUEST", "DESIGNATOR", "DRIVE", "BODY")
    for device in seen.contents.devices:
        _add(devices, device.guest, device.designator, device.drive, device.body.decode(errors="replace"))
    handovers = plain_table("HANDOVER", "GUEST", "ROLE", "PEER", "STATE", "OPEN", "AT", "STATES")
    states = Counter(step.handover for step in seen.steps)
    for newest in seen.contents.handovers:
        about = (newest.handover, newest.guest, newest.role, newest.peer, newest.state)
        count = str(states[newest.handover])
        _add(handovers, *about, "yes" if newest.open else "no", _time(newest.at), count)
    console = screen()
    for place, table in enumerate((guests, devices, handovers)):
        if place:
            console.print()
        console.print(table)


def _add(table: Table, *cells: str) -> None:
    """A row of words as they are: brackets in them are no markup."""
    table.add_row(*map(Text, cells))


def _time(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return str(at)
