"""``holdover pr``: PERSISTENT RESERVE IN and OUT on a LUN, shown as tables or JSON."""

from __future__ import annotations

import asyncio
import sys
from typing import NoReturn

import msgspec
from rich.table import Table

from holdover.cli.console import plain_table, screen
from holdover.cli.errors import refuse
from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name
from holdover.paths.iscsi import Identity, IscsiSessions, isid_of
from holdover.paths.path import PathError
from holdover.paths.place import PlaceError, open_path, parse_place
from holdover.paths.sgio import SgIo
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation_in import Capabilities, FullStatus, ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.sense import describe_response, is_unit_attention

__all__ = ["ask", "tell"]

_ALLOCATION = 65528
_ATTEMPTS = 8
_TYPES = {each.short_name: each for each in ReservationType} | {
    str(int(each)): each for each in ReservationType
}
_TYPED = (
    OutServiceAction.RESERVE,
    OutServiceAction.RELEASE,
    OutServiceAction.PREEMPT,
    OutServiceAction.PREEMPT_AND_ABORT,
)


class Held(msgspec.Struct, kw_only=True):
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
    reservation: Held | None


class CapabilitiesAnswer(msgspec.Struct, kw_only=True):
    """``pr capabilities --json``, with the standard's names."""

    crh: bool
    sip_c: bool
    atp_c: bool
    ptpl_c: bool
    ptpl_a: bool
    allow_commands: int
    types: list[str] | None


class Registrant(msgspec.Struct, kw_only=True):
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
    registrants: list[Registrant]


class Done(msgspec.Struct, kw_only=True):
    """What a PERSISTENT RESERVE OUT, or a command that failed, prints with ``--json``."""

    service_action: str
    status: str
    good: bool


def ask(url: str, what: str, initiator: str, json: bool) -> None:
    """Send one PERSISTENT RESERVE IN and show its data; exit status 1 when it was not GOOD."""
    action = InServiceAction[what]
    response = _send(url, in_command(action, _ALLOCATION), initiator)
    if not response.good:
        _fail(action.name, response, json)
    try:
        answer, table = _SHOW[action](response.data_in)
    except DecodeError as error:
        refuse(f"{url}: {error}", 1)
    if json:
        print(msgspec.json.encode(answer).decode())
    else:
        screen().print(table)


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
    """Send one PERSISTENT RESERVE OUT; exit status 1 when it was not GOOD."""
    action = OutServiceAction[what]
    kind: ReservationType | None = None
    if action in _TYPED:
        kind = _TYPES.get((type_name or "").lower())
        if kind is None:
            refuse(f"--type {type_name}: choose one of {', '.join(_TYPES)}")
    command = out_command(action, _key("--key", key), _key("--new-key", new_key), type=kind, aptpl=aptpl)
    response = _send(url, command, initiator)
    if not response.good:
        _fail(action.name, response, json)
    if json:
        print(msgspec.json.encode(_done(action.name, response)).decode())
    else:
        print(f"{action.name.replace('_', ' ')}: GOOD")


def _key(option: str, text: str) -> int:
    try:
        value = int(text, 0)
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 64:
        refuse(f"{option} {text}: not a key; write a number of 64 bits, decimal or 0x…")
    return value


def _send(url: str, command: Command, initiator: str) -> Response:
    """Log in and send ``command``, again where a unit attention is reported instead."""
    try:
        where = parse_place(url)
        name = check_iscsi_name(initiator)
    except (PlaceError, IscsiNameError) as error:
        refuse(str(error))

    async def send() -> Response:
        # one name, one nexus: what registers now must be who reserves in the next command
        io = SgIo(1)
        path = open_path(where, Identity(name, isid_of("holdover pr")), IscsiSessions(), io)
        try:
            response = await path.execute(command)
            for _ in range(_ATTEMPTS):
                if not is_unit_attention(response):
                    break
                response = await path.execute(command)
            return response
        finally:
            await path.close()
            io.close()

    try:
        return asyncio.run(send())
    except PathError as error:
        refuse(str(error), 1)


def _done(action: str, response: Response) -> Done:
    return Done(service_action=action, status=describe_response(response), good=response.good)


def _fail(action: str, response: Response, json: bool) -> NoReturn:
    if json:
        print(msgspec.json.encode(_done(action, response)).decode())
        sys.exit(1)
    refuse(f"{action.replace('_', ' ')}: {describe_response(response)}", 1)


def _named(kind: ReservationType) -> str:
    return f"{kind.short_name} ({int(kind)}, {kind.name.replace('_', ' ').lower()})"


def _show_keys(data: bytes) -> tuple[msgspec.Struct, Table]:
    found = ReadKeys.decode(data)
    table = plain_table("KEY")
    for key in found.keys:
        table.add_row(f"{key:#x}")
    if not found.keys:
        table.add_row("no key is registered")
    return KeysAnswer(generation=found.generation, keys=[f"{key:#x}" for key in found.keys]), table


def _held(held: Reservation) -> Held:
    return Held(key=f"{held.key:#x}", type=int(held.type), type_name=held.type.short_name, scope=held.scope)


def _show_reservation(data: bytes) -> tuple[msgspec.Struct, Table]:
    found = ReadReservation.decode(data)
    held = found.reservation
    table = plain_table("KEY", "TYPE", "PRGENERATION")
    if held is None:
        table.add_row("-", "no reservation is held", str(found.generation))
        return ReservationAnswer(generation=found.generation, reservation=None), table
    table.add_row(f"{held.key:#x}", _named(held.type), str(found.generation))
    return ReservationAnswer(generation=found.generation, reservation=_held(held)), table


def _show_capabilities(data: bytes) -> tuple[msgspec.Struct, Table]:
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
    table = plain_table("CAPABILITY", "VALUE", "MEANING")
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


def _show_status(data: bytes) -> tuple[msgspec.Struct, Table]:
    found = FullStatus.decode(data)
    table = plain_table("KEY", "HOLDER", "TYPE", "INITIATOR", "TARGET PORT")
    registrants: list[Registrant] = []
    for each in found.descriptors:
        kind = each.type
        port = None if each.all_target_ports else each.relative_target_port
        registrants.append(
            Registrant(
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


_SHOW = {
    InServiceAction.READ_KEYS: _show_keys,
    InServiceAction.READ_RESERVATION: _show_reservation,
    InServiceAction.REPORT_CAPABILITIES: _show_capabilities,
    InServiceAction.READ_FULL_STATUS: _show_status,
}
