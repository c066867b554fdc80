"""``holdover pr``: sends PERSISTENT RESERVE IN and OUT to a LUN, and shows the answer as a table or JSON."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from functools import partial
from typing import NoReturn

import msgspec

from holdover.cli.errors import refuse
from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name, decode_lun
from holdover.iscsi.url import IscsiUrl
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.paths.locator import LocatorError, open_path, parse_locator
from holdover.paths.sgio import SgIo
from holdover.reservations.driver import run_async
from holdover.reservations.steps import StepFailed, past_attentions
from holdover.scsi.allocation import ask_whole
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.path import Path, PathError
from holdover.scsi.reservation.reservation_in import (
    Capabilities,
    FullStatus,
    ReadKeys,
    ReadReservation,
    Reservation,
)
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, decode_sense, describe_response
from holdover.scsi.status import Status
from holdover.terminal import PlainTable, screen

TYPES = {each.short_name: each for each in ReservationType} | {
    str(int(each)): each for each in ReservationType
}
Action = InServiceAction | OutServiceAction

_LUN_DATA = 8192

_TYPED = (
    OutServiceAction.RESERVE,
    OutServiceAction.RELEASE,
    OutServiceAction.PREEMPT,
    OutServiceAction.PREEMPT_AND_ABORT,
)


class HeldAnswer(msgspec.Struct, kw_only=True):
    """A reservation in ``--json``."""

    key: str
    type: int
    type_name: str
    scope: int


class KeysAnswer(msgspec.Struct, kw_only=True):
    """``pr keys --json``."""

    generation: int
    keys: list[str]


class ReservationAnswer(msgspec.Struct, kw_only=True):
    """``pr reservation --json``; ``reservation`` is null when none is held."""

    generation: int
    reservation: HeldAnswer | None


class CapabilitiesAnswer(msgspec.Struct, kw_only=True):
    """``pr capabilities --json``, with the standard's names."""

    crh: bool
    sip_c: bool
    atp_c: bool
    ptpl_c: bool
    ptpl_a: bool
    allow_commands: int
    types: list[str] | None


class RegistrantAnswer(msgspec.Struct, kw_only=True):
    """One registrant in ``pr status --json``."""

    key: str
    holder: bool
    initiator: str
    target_port: int | None
    type: int | None
    type_name: str | None


class StatusAnswer(msgspec.Struct, kw_only=True):
    """``pr status --json``."""

    generation: int
    registrants: list[RegistrantAnswer]


class Done(msgspec.Struct, kw_only=True):
    """The document of ``--json`` after PERSISTENT RESERVE OUT, or after a command that failed."""

    service_action: str
    status: str
    good: bool


def ask(url: str, what: str, initiator: str, json: bool) -> None:
    """Send one PERSISTENT RESERVE IN and show its data. Exit with 1 if the answer is not GOOD."""
    action = InServiceAction[what]
    response, luns = _send(url, action, in_command(action), initiator)
    if not response.good:
        _fail(action, response, luns, json)
    try:
        answer, table = SHOW[action](response.data_in)
    except DecodeError as error:
        refuse(f"{url}: {error}", 1)
    if json:
        print(msgspec.json.encode(answer).decode())
    else:
        screen().print(table, crop=False)


def tell(
    url: str,
    what: str,
    initiator: str,
    json: bool,
    *,
    key: str,
    new_key: str,
    type_name: str | None,
    aptpl: bool,
) -> None:
    """Send one PERSISTENT RESERVE OUT. Exit with 1 if the answer is not GOOD."""
    action = OutServiceAction[what]
    kind: ReservationType | None = None
    if action in _TYPED:
        kind = TYPES[type_name or ""]
    command = out_command(action, _key("--key", key), _key("--new-key", new_key), type=kind, aptpl=aptpl)
    response, luns = _send(url, action, command, initiator)
    if not response.good:
        _fail(action, response, luns, json)
    if json:
        print(msgspec.json.encode(_done(action.name, response)).decode())
    else:
        print(f"{_step(action)}: GOOD")


def _key(option: str, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        refuse(f"{option} {text}: not a key; write a number of 64 bits, decimal or 0x…")
    return value


def _send(url: str, action: Action, command: Command, initiator: str) -> tuple[Response, str]:
    """Log in and send ``command``. Repeat it after a unit attention, or if its data did not fit.

    Returns the answer, and the LUNs that there are if it is that there is no such LUN.
    """
    try:
        where = parse_locator(url)
        name = check_iscsi_name(initiator)
    except (LocatorError, IscsiNameError) as error:
        refuse(str(error))

    async def send() -> tuple[Response, str]:
        # The next command must come from the same nexus: so the ISID is always the same.
        io = SgIo(1)
        send_once = partial(past_attentions, step=_step(action))
        identity, sessions = InitiatorIdentity(name, isid_of("holdover pr")), IscsiSessions()
        path = open_path(where, identity, sessions, io)
        try:
            response = await run_async(ask_whole(command, send_once), path.execute)
            if not isinstance(where, IscsiUrl) or not _is_missing(response):
                return response, ""
            # a LUN that is not there answers nothing; LUN 0 speaks for the target, even if it is not there
            return response, await _luns(sessions.path(replace(where, lun=0), identity))
        finally:
            await path.close()
            io.close()

    try:
        return asyncio.run(send())
    except (PathError, StepFailed) as error:
        refuse(str(error), 1)


def _is_missing(response: Response) -> bool:
    if response.status is not Status.CHECK_CONDITION:
        return False
    try:
        return decode_sense(response.sense).additional == AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED
    except DecodeError:
        return False


async def _luns(path: Path) -> str:
    """The LUNs of the target, which answers REPORT LUNS for all of them (SPC-4 6.33), for an error."""
    cdb = bytes((OperationCode.REPORT_LUNS, 0, 0, 0, 0, 0)) + _LUN_DATA.to_bytes(4) + bytes(2)
    try:
        data = (await path.execute(Command(cdb, data_in_length=_LUN_DATA))).data_in
    finally:
        await path.close()
    entries = (int.from_bytes(data[at : at + 8]) for at in range(8, len(data) - 7, 8))
    known = [str(number) for number in map(decode_lun, entries) if number is not None]
    return f"; the LUNs of the target are {', '.join(known)}" if known else "; the target has no LUN"


def _step(action: Action) -> str:
    return action.name.replace("_", " ")


def _done(action: str, response: Response) -> Done:
    return Done(service_action=action, status=describe_response(response), good=response.good)


def _fail(action: Action, response: Response, luns: str, json: bool) -> NoReturn:
    if json:
        print(msgspec.json.encode(_done(action.name, response)).decode())
        sys.exit(1)
    refuse(f"{_step(action)}: {describe_response(response)}{luns}", 1)


def _named(kind: ReservationType) -> str:
    return f"{kind.short_name} ({int(kind)}, {kind.name.replace('_', ' ').lower()})"


def _show_keys(data: bytes) -> tuple[msgspec.Struct, PlainTable]:
    found = ReadKeys.decode(data)
    _require_whole(found.complete, "READ KEYS data")
    table = PlainTable("KEY")
    for key in found.keys:
        table.add_row(f"{key:#x}")
    if not found.keys:
        table.add_row("no key is registered")
    return KeysAnswer(generation=found.generation, keys=[f"{key:#x}" for key in found.keys]), table


def _require_whole(complete: bool, what: str) -> None:
    if not complete:
        raise DecodeError(what, "the data of the logical unit does not fit into 65,535 bytes")


def _held(held: Reservation) -> HeldAnswer:
    return HeldAnswer(
        key=f"{held.key:#x}", type=int(held.type), type_name=held.type.short_name, scope=held.scope
    )


def _show_reservation(data: bytes) -> tuple[msgspec.Struct, PlainTable]:
    found = ReadReservation.decode(data)
    held = found.reservation
    table = PlainTable("KEY", "TYPE", "PRGENERATION")
    if held is None:
        table.add_row("-", "no reservation is held", str(found.generation))
        return ReservationAnswer(generation=found.generation, reservation=None), table
    table.add_row(f"{held.key:#x}", _named(held.type), str(found.generation))
    return ReservationAnswer(generation=found.generation, reservation=_held(held)), table


def _show_capabilities(data: bytes) -> tuple[msgspec.Struct, PlainTable]:
    found = Capabilities.decode(data)
    types = None if found.types is None else [each.short_name for each in sorted(found.types)]
    answer = CapabilitiesAnswer(
        crh=found.crh,
        sip_c=found.sip_c,
        atp_c=found.atp_c,
        ptpl_c=found.ptpl_c,
        ptpl_a=found.ptpl_a,
        allow_commands=found.allow_commands,
        types=types,
    )
    table = PlainTable("CAPABILITY", "VALUE", "MEANING")
    for name, value, meaning in (
        ("CRH", found.crh, "RESERVE and RELEASE are compatible"),
        ("SIP_C", found.sip_c, "SPEC_I_PT: a REGISTER may name initiator ports"),
        ("ATP_C", found.atp_c, "ALL_TG_PT: a REGISTER may stand for all target ports"),
        ("PTPL_C", found.ptpl_c, "reservations can survive power loss"),
        ("PTPL_A", found.ptpl_a, "they do now (APTPL of the last registration)"),
    ):
        table.add_row(name, str(int(value)), meaning)
    table.add_row("TYPES", ", ".join(types) if types is not None else "not said", "reservation types")
    return answer, table


def _show_status(data: bytes) -> tuple[msgspec.Struct, PlainTable]:
    found = FullStatus.decode(data)
    _require_whole(found.complete, "READ FULL STATUS data")
    table = PlainTable("KEY", "HOLDER", "TYPE", "INITIATOR", "TARGET PORT")
    registrants: list[RegistrantAnswer] = []
    for each in found.descriptors:
        kind = each.type
        port = None if each.all_target_ports else each.relative_target_port
        registrants.append(
            RegistrantAnswer(
                key=f"{each.key:#x}",
                holder=each.holder,
                initiator=str(each.transport_id),
                target_port=port,
                type=None if kind is None else int(kind),
                type_name=None if kind is None else kind.short_name,
            )
        )
        table.add_row(
            f"{each.key:#x}",
            "yes" if each.holder else "no",
            "-" if kind is None else _named(kind),
            str(each.transport_id),
            "all" if port is None else str(port),
        )
    if not registrants:
        table.add_row("-", "", "nobody is registered", "", "")
    return StatusAnswer(generation=found.generation, registrants=registrants), table


SHOW = {
    InServiceAction.READ_KEYS: _show_keys,
    InServiceAction.READ_RESERVATION: _show_reservation,
    InServiceAction.REPORT_CAPABILITIES: _show_capabilities,
    InServiceAction.READ_FULL_STATUS: _show_status,
}
