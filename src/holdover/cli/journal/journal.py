"""``holdover journal``: shows what is in an agent's journal, and checks whether it is whole."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from holdover.cli.errors import refuse
from holdover.journal.inspect import Inspection, inspect
from holdover.journal.journal import JournalError
from holdover.journal.records import DeviceRecord, GuestRecord
from holdover.scsi.reservation.key import key_text
from holdover.terminal import PlainTable, screen

KEY_FIELDS = frozenset(
    {
        "key",
        "candidates",
        "source_spare",
        "destination_spare",
        "fresh_spare",
        "others",
        "standing",
        "preempted_key",
    }
)
"""The fields of bodies that hold reservation keys. They are shown as "0x…": many JSON readers round them."""


class _Check(msgspec.Struct, kw_only=True):
    """The document of ``check --json``."""

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


class _StateRow(msgspec.Struct, kw_only=True):
    guest: str
    role: str
    peer: str
    state: str
    open: bool
    body: object
    at: float


class _Handover(msgspec.Struct, kw_only=True):
    handover_id: str
    states: list[_StateRow]


class _Show(msgspec.Struct, kw_only=True):
    """The document of ``show --json``: handovers by their last change, the states of each oldest first."""

    check: _Check
    guests: tuple[GuestRecord, ...]
    devices: list[_Device]
    handovers: list[_Handover]


def check(file: Path, json: bool) -> None:
    """Check a journal. Exit with 1 if it is damaged, with 2 if the file is no journal."""
    seen = _inspect(file)
    summary = _summary(seen)
    if json:
        print(msgspec.json.encode(summary).decode())
    else:
        print(f"{file}: {'whole' if summary.whole else 'damaged; these can be read'}: {_counts(summary)}")
    _end(seen, json)


def show(file: Path, json: bool) -> None:
    """Show what can be read. Exit with 1 if the journal is damaged, with 2 if the file is no journal."""
    seen = _inspect(file)
    if json:
        print(msgspec.json.encode(_document(seen)).decode())
    else:
        print_tables(seen)
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
            "holdover: an agent does not start with this journal; put a good copy in its place, with the "
            "copies of its -wal and .mark",
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
    """What a body says, with its keys as "0x…"; bytes that are no JSON are shown as base64."""
    try:
        return _readable(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body


def _readable(value: object, is_key: bool = False) -> object:
    match value:
        case dict():
            return {name: _readable(each, name in KEY_FIELDS) for name, each in value.items()}
        case list():
            return [_readable(each, is_key) for each in value]
        case int() if is_key and not isinstance(value, bool):
            return key_text(value)
        case _:
            return value


def _in_a_cell(body: bytes) -> str:
    """A body on one line, with its keys as "0x…"; a body that is not JSON is shown unchanged."""
    shown = _body(body)
    return body.decode(errors="replace") if isinstance(shown, bytes) else msgspec.json.encode(shown).decode()


def _document(seen: Inspection) -> _Show:
    newest = (handover.handover_id for handover in seen.contents.handovers)
    handovers = {handover: _Handover(handover_id=handover, states=[]) for handover in newest}
    for step in seen.steps:
        handovers[step.handover_id].states.append(
            _StateRow(
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


def print_tables(seen: Inspection) -> None:
    """Print the guests, the devices and the newest state of each handover."""
    guests = PlainTable("GUEST", "UUID", "MACHINE", "ORIGIN", "PROCESS")
    for guest in seen.contents.guests:
        guests.add_row(guest.name, guest.uuid or "-", guest.machine_type, guest.origin, guest.process or "-")
    devices = PlainTable("GUEST", "DESIGNATOR", "DRIVE", "BODY")
    for device in seen.contents.devices:
        devices.add_row(device.guest, device.designator, device.drive, _in_a_cell(device.body))
    handovers = PlainTable("HANDOVER", "GUEST", "ROLE", "PEER", "STATE", "OPEN", "AT", "STATES")
    states = Counter(step.handover_id for step in seen.steps)
    for newest in seen.contents.handovers:
        about = (newest.handover_id, newest.guest, newest.role, newest.peer, newest.state)
        count = str(states[newest.handover_id])
        handovers.add_row(*about, "yes" if newest.open else "no", _time(newest.at), count)
    console = screen()
    for place, table in enumerate((guests, devices, handovers)):
        if place:
            console.print()
        console.print(table, crop=False)


def _time(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return str(at)
