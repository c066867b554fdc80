"""``holdover handover``: one handover step by step, while another program drives the migration.

docs/reference/exit-status.md lists the exit statuses.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.documents import HandoverState, LunState, Problem, Stale
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.cli.one_agent import with_agent
from holdover.cli.tracing import collect, require_suffix, write_and_show
from holdover.cli.two_agents import called
from holdover.config.agent_file import ConfigError
from holdover.migrate.result import ExitStatus, exit_status, is_in_doubt
from holdover.migrate.state_description import in_words
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.terminal import PlainTable, screen

Ask = Callable[[AgentClient, str], Awaitable[HandoverState]]
"""A request to an agent about the handover with that id."""


def prepare(
    guest: str, at: str, to: str, handover_id: str | None, stale: Stale, asking: Asking, json: bool
) -> None:
    """Prepare a handover. Without an id it gets a random one, which is printed."""
    identity = handover_id or secrets.token_hex(8)

    known: list[str] = []

    async def find(agent: AgentClient) -> None:
        known.append(await _known_as(agent, to, asking))

    async def ask(agent: AgentClient, handover_id: str) -> HandoverState:
        return await agent.prepare(guest, handover_id, known[0], stale)

    _run(guest, at, identity, ask, asking, json, moves=False, find=find)


async def _known_as(source: AgentClient, to: str, asking: Asking) -> str:
    """The name of the destination. The source does not know every address: then the agent there is asked."""
    name, api = await called(source, to)
    if name:
        return name
    return (await with_agent(api, asking, lambda destination: destination.guests())).host


def commit(guest: str, at: str, handover_id: str | None, asking: Asking, json: bool) -> None:
    """Commit a handover."""
    _run(guest, at, handover_id, lambda agent, identity: agent.commit(guest, identity), asking, json)


def roll_back(guest: str, at: str, handover_id: str | None, alone: bool, asking: Asking, json: bool) -> None:
    """Roll a handover back."""

    def ask(agent: AgentClient, identity: str) -> Awaitable[HandoverState]:
        return agent.roll_back(guest, identity, alone=alone)

    _run(guest, at, handover_id, ask, asking, json)


def finish(guest: str, at: str, handover_id: str | None, asking: Asking, json: bool) -> None:
    """Finish a handover."""

    def ask(agent: AgentClient, identity: str) -> Awaitable[HandoverState]:
        return agent.finish(guest, identity)

    _run(guest, at, handover_id, ask, asking, json, moves=False)


def take(guest: str, at: str, handover_id: str | None, asking: Asking, json: bool) -> None:
    """Move everything to the destination, as the source is dead."""
    _run(guest, at, handover_id, lambda agent, identity: agent.take(guest, identity), asking, json)


def status(guest: str, at: str, asking: Asking, json: bool) -> None:
    """Show the newest handover. Exit with 3 while it is in doubt where the reservations are."""
    try:
        state = asyncio.run(with_agent(at, asking, lambda agent: agent.handover(guest)))
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        _refuse(error, None, at, json, ExitStatus.NOT_DONE)
    _show(state, at, json)
    if state.in_doubt:
        sys.exit(ExitStatus.IN_DOUBT)


def trace(guest: str, at: str, destination: str | None, file: Path, asking: Asking) -> None:
    """Write where the time of the newest handover went, and show it."""
    require_suffix(file)

    async def ask() -> str:
        agents = asking.clients(at, *([] if destination is None else [destination]))
        try:
            found = await collect(guest, agents[0], agents[1] if destination is not None else None)
        finally:
            for agent in agents:
                await agent.close()
        write_and_show(found.trace, file, screen())
        return found.missing

    try:
        missing = asyncio.run(ask())
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        refuse(str(error), 1)
    if missing:
        refuse(missing, 1)


def _run(
    guest: str,
    at: str,
    handover_id: str | None,
    ask: Ask,
    asking: Asking,
    json: bool,
    *,
    moves: bool = True,
    find: Callable[[AgentClient], Awaitable[None]] | None = None,
) -> None:
    """Ask for one step. ``moves``: the step moves reservations. ``find`` is called before the request."""
    asked = False
    now: HandoverState | None = None

    async def do(agent: AgentClient) -> HandoverState:
        nonlocal asked, now
        try:
            identity = handover_id or (await agent.handover(guest)).handover_id
            await agent.guest(guest)  # does the agent answer, before anything is asked for?
            if find is not None:
                await find(agent)
            asked = True
            return await ask(agent, identity)
        except AgentRefused:
            now = await _newest(agent, guest)
            raise

    try:
        state = asyncio.run(with_agent(at, asking, do))
    except ConfigError as error:
        refuse(str(error))
    except AgentRefused as error:
        in_doubt = is_in_doubt(error.problem, may_have_moved=False)
        _refuse(error, now, at, json, exit_status(in_doubt=in_doubt), asked=asked)
    except AgentError as error:
        in_doubt = is_in_doubt(None, may_have_moved=asked and moves)
        _refuse(error, None, at, json, exit_status(in_doubt=in_doubt), asked=asked)
    _show(state, at, json)


async def _newest(agent: AgentClient, guest: str) -> HandoverState | None:
    try:
        return await agent.handover(guest)
    except AgentError:
        return None


def _refuse(
    error: AgentError,
    now: HandoverState | None,
    at: str,
    json: bool,
    code: ExitStatus,
    *,
    asked: bool = False,
) -> NoReturn:
    """End the command: what was not done, what is true now, and what comes next."""
    text = str(error)
    if isinstance(error, AgentRefused) and now is not None:
        text += f"\n{in_words(now, at)}"
    elif not isinstance(error, AgentRefused):
        text += (
            "\nWhether it was done is not known. Repeat the command: that is harmless."
            if asked
            else "\nNothing was changed: no step was asked for."
        )
    if not json:
        refuse(text, code)
    problem = (
        error.problem
        if isinstance(error, AgentRefused)
        else Problem(detail=text, in_doubt=code is ExitStatus.IN_DOUBT)
    )
    print(msgspec.json.encode(problem).decode())
    sys.exit(code)


def _show(state: HandoverState, at: str, json: bool) -> None:
    if json:
        print(msgspec.json.encode(state).decode())
        return
    console = screen()
    console.print(table_of(state.luns), crop=False)
    console.print(in_words(state, at), markup=False, highlight=False, soft_wrap=True)
    for title, text in (("Rolled back because", state.reason), ("Held up by", state.problem)):
        if text:
            console.print(f"{title}: {text}", markup=False, highlight=False, soft_wrap=True)


def table_of(luns: Sequence[LunState]) -> PlainTable:
    """What the guest has on each LUN of a handover."""
    table = PlainTable("LUN", "KEY", "TYPE", "APTPL", "THIRD NEXUSES", "ALARM")
    for lun in luns:
        if not lun.migrate_pr:
            table.add_row(lun.designator, "migrate-pr=off: reservations stay")
            continue
        table.add_row(
            lun.designator,
            lun.key or "-",
            "-" if lun.type is None else _type(ReservationType(lun.type)),
            "yes" if lun.aptpl else "no",
            f"{len(lun.others)}{', one with this key' if lun.shared else ''}",
            lun.alarm,
        )
    return table


def _type(kind: ReservationType) -> str:
    return f"{kind.short_name} ({kind.value})"
