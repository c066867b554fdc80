"""``holdover handover``: one handover step by step, for those whose migration is driven by something else.

Exit status: 0 what was asked is so; 1 it is not, and what is true is said; 3 that is in doubt.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import NoReturn

import msgspec
from rich.markup import escape

from holdover.agent.api import HandoverState, Problem, Stale
from holdover.agent.client import AgentClient, AgentError, AgentRefused
from holdover.agent.config import ConfigError
from holdover.agent.meaning import meaning_of
from holdover.cli.asking import Asking
from holdover.cli.console import plain_table, screen
from holdover.cli.errors import refuse
from holdover.cli.tracing import collect, require_suffix, write_and_show
from holdover.cli.two_agents import called
from holdover.scsi.opcodes import ReservationType

__all__ = ["commit", "finish", "prepare", "roll_back", "status", "take", "trace"]

Ask = Callable[[AgentClient, str], Awaitable[HandoverState]]
"""Ask an agent for something of the handover of an identity."""


def prepare(
    guest: str, at: str, to: str, handover: str | None, stale: Stale, asking: Asking, json: bool
) -> None:
    """Prepare; the identity is drawn at random where none was given, and printed."""
    identity = handover or secrets.token_hex(8)

    async def ask(agent: AgentClient, handover: str) -> HandoverState:
        return await agent.prepare(guest, handover, await _known_as(agent, to, asking), stale)

    _run(guest, at, identity, ask, asking, json)


async def _known_as(source: AgentClient, to: str, asking: Asking) -> str:
    """The name of the peer that is meant, where the source has one; else the address."""
    name, api = await called(source, to)
    if name:
        return name
    peers = (await source.guests()).peers
    by_address = [peer.name for peer in peers if peer.api == api]
    if by_address or not peers:
        return by_address[0] if by_address else api
    # an operator may reach it at another address than the source does
    (destination,) = asking.clients(api)
    try:
        host = (await destination.guests()).host
    finally:
        await destination.close()
    return host if host in {peer.name for peer in peers} else api


def commit(guest: str, at: str, handover: str | None, asking: Asking, json: bool) -> None:
    """Commit."""
    _run(guest, at, handover, lambda agent, identity: agent.commit(guest, identity), asking, json)


def roll_back(guest: str, at: str, handover: str | None, alone: bool, asking: Asking, json: bool) -> None:
    """Roll back."""

    def ask(agent: AgentClient, identity: str) -> Awaitable[HandoverState]:
        return agent.roll_back(guest, identity, alone=alone)

    _run(guest, at, handover, ask, asking, json)


def finish(guest: str, at: str, handover: str | None, asking: Asking, json: bool) -> None:
    """Finish."""
    _run(guest, at, handover, lambda agent, identity: agent.finish(guest, identity), asking, json)


def take(guest: str, at: str, handover: str | None, asking: Asking, json: bool) -> None:
    """Take."""
    _run(guest, at, handover, lambda agent, identity: agent.take(guest, identity), asking, json)


def status(guest: str, at: str, asking: Asking, json: bool) -> None:
    """Show the newest handover; exit status 3 while it is in doubt where the reservations are."""
    try:
        state = asyncio.run(_with_agent(at, asking, lambda agent: agent.handover(guest)))
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        _refuse(error, None, at, json, 1)
    _show(state, at, json)


def trace(guest: str, at: str, destination: str | None, file: Path, asking: Asking) -> None:
    """Write where the time of the newest handover went, and show it."""
    require_suffix(file)

    async def ask() -> None:
        agents = asking.clients(at, *([] if destination is None else [destination]))
        try:
            found = await collect(guest, agents[0], agents[1] if destination is not None else None)
        finally:
            for agent in agents:
                await agent.close()
        write_and_show(found, file, screen())

    try:
        asyncio.run(ask())
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        refuse(str(error), 1)


def _run(guest: str, at: str, handover: str | None, ask: Ask, asking: Asking, json: bool) -> None:
    asked = False
    now: HandoverState | None = None

    async def do(agent: AgentClient) -> HandoverState:
        nonlocal asked, now
        try:
            identity = handover or (await agent.handover(guest)).handover
            await agent.guest(guest)  # before anything is asked for: does anybody answer?
            asked = True
            return await ask(agent, identity)
        except AgentRefused:
            now = await _newest(agent, guest)
            raise

    try:
        state = asyncio.run(_with_agent(at, asking, do))
    except ConfigError as error:
        refuse(str(error))
    except AgentRefused as error:
        _refuse(error, now, at, json, 3 if error.problem.in_doubt else 1)
    except AgentError as error:
        _refuse(error, None, at, json, 3 if asked else 1)
    _show(state, at, json)


async def _with_agent(
    at: str, asking: Asking, do: Callable[[AgentClient], Coroutine[object, object, HandoverState]]
) -> HandoverState:
    (agent,) = asking.clients(at)
    try:
        return await do(agent)
    finally:
        await agent.close()


async def _newest(agent: AgentClient, guest: str) -> HandoverState | None:
    try:
        return await agent.handover(guest)
    except AgentError:
        return None


def _refuse(error: AgentError, now: HandoverState | None, at: str, json: bool, code: int) -> NoReturn:
    """What was not done, what is true and what comes next."""
    text = str(error)
    if isinstance(error, AgentRefused) and now is not None:
        text += f"\n{_in_words(now, at)}"
    elif not isinstance(error, AgentRefused):
        text += (
            "\nWhether it was done is not known; ask again, which is harmless."
            if code == 3
            else "\nNothing was asked for."
        )
    if not json:
        refuse(text, code)
    problem = error.problem if isinstance(error, AgentRefused) else Problem(error=text, in_doubt=code == 3)
    print(msgspec.json.encode(problem).decode())
    sys.exit(code)


def _in_words(state: HandoverState, api: str) -> str:
    meaning = meaning_of(state, api)
    text = f"Now: {meaning.now} (handover {state.handover} is {state.state})."
    return f"{text}\nNext: {meaning.next}." if meaning.next else text


def _show(state: HandoverState, at: str, json: bool) -> None:
    if json:
        print(msgspec.json.encode(state).decode())
        return
    console = screen()
    table = plain_table("LUN", "KEY", "TYPE", "APTPL", "THIRD NEXUSES", "")
    for lun in state.luns:
        if not lun.migrate_pr:
            table.add_row(lun.designator, "migrate-pr=off: reservations stay", "", "", "", "")
            continue
        tracked = lun.tracked
        table.add_row(
            lun.designator,
            f"{tracked.key:#x}" if tracked.key else "-",
            "-" if tracked.type is None else _type(tracked.type),
            "yes" if tracked.aptpl else "no",
            f"{len(lun.others)}{', one with this key' if lun.shared else ''}",
            escape(lun.alarm),
        )
    console.print(table)
    console.print(_in_words(state, at), markup=False, highlight=False, soft_wrap=True)
    for title, text in (("Rolled back because", state.reason), ("Hindered by", state.problem)):
        if text:
            console.print(f"{title}: {text}", markup=False, highlight=False, soft_wrap=True)


def _type(kind: ReservationType) -> str:
    return f"{kind.short_name} ({kind.value})"
