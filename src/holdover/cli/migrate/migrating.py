"""``holdover migrate`` where the agents drive both QEMUs: begins the migration, and follows it."""

from __future__ import annotations

import asyncio
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.markup import escape

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.migration_documents import MigrationOptions, MigrationRequest, MigrationState
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.cli.migrate.following import Detached, Follower
from holdover.cli.migrate.moved_luns import moved_luns
from holdover.cli.tracing import collect, require_suffix, write_and_show
from holdover.cli.two_agents import two_agents
from holdover.config.agent_file import ConfigError
from holdover.migrate.result import ExitStatus, Progress
from holdover.terminal import screen

_BEGIN_SECONDS = 10.0
_PAUSE = 0.2


@dataclass(frozen=True, slots=True)
class Order:
    """What ``holdover migrate`` was asked for.

    Attributes:
        guest: The guest's name.
        at: The API of the agent that the guest leaves.
        to: Where it goes.
        options: The options of the migration.
        detach: Whether the command ends when the migration has begun.
        dry_run: Whether everything is only checked.
        trace: The file for the trace.
        json: Whether one document is printed.
    """

    guest: str
    at: str
    to: str
    options: MigrationOptions
    detach: bool
    dry_run: bool
    trace: Path | None
    json: bool


def run(order: Order, asking: Asking) -> None:
    """Migrate a guest; exit status 1 when it stays, 3 when it is not known where it is."""
    if order.trace is not None:
        require_suffix(order.trace)
    try:
        state, why = asyncio.run(_run(order, asking))
    except ConfigError as error:
        refuse(str(error))
    except AgentRefused as error:
        _refused(order, str(error))
    except AgentError as error:
        _refused(order, f"{error}\nNothing is known to have begun; holdover migrations says what has.")
    if order.dry_run:
        _show_checks(state, order.json)
        return
    end(state, why, order.json)


def _refused(order: Order, text: str) -> None:
    if order.json:
        print(msgspec.json.encode({"error": text}).decode())
        sys.exit(ExitStatus.NOT_DONE)
    refuse(text, ExitStatus.NOT_DONE)


async def _run(order: Order, asking: Asking) -> tuple[MigrationState, str]:
    """The state in which this command leaves the migration, and why it leaves it before its end."""
    async with two_agents(asking, order.at, order.to) as agents:
        request = MigrationRequest(
            migration_id=secrets.token_hex(8),
            to=agents.to or await _name_of(agents.asked_destination) or order.to,
            options=order.options,
            dry_run=order.dry_run,
        )
        state = await _begin(agents.source, order.guest, request)
        if order.dry_run:
            return state, ""
        if order.detach:
            return state, "--detach"
        try:
            state = await Follower(agents.source, order.guest, quiet=order.json).follow(state)
        except Detached as error:
            return error.state, str(error)
        if order.trace is not None:
            await _trace(order, state, agents.source, agents.destination)
        return state, ""


async def _name_of(destination: AgentClient | None) -> str:
    """The name by which a destination that was given by its address calls itself; empty if there is none."""
    return "" if destination is None else (await destination.guests()).host


async def _begin(client: AgentClient, guest: str, request: MigrationRequest) -> MigrationState:
    """Ask the agent to begin; without an answer ask again, which begins nothing new."""
    end = asyncio.get_running_loop().time() + _BEGIN_SECONDS
    while True:
        try:
            return await client.migrate(guest, request)
        except AgentRefused:
            raise
        except AgentError:
            if asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(_PAUSE)


async def _trace(
    order: Order, state: MigrationState, source: AgentClient, destination: AgentClient | None
) -> None:
    steps = [
        Progress(
            phase=each.phase,
            action=each.phase,
            host="",
            state="done",
            at=each.ended - state.began,
            milliseconds=(each.ended - each.began) * 1000,
        )
        for each in state.phases
        if each.ended
    ]
    try:
        found = await collect(
            order.guest, source, destination, handover_id=state.migration_id, steps=steps, began=state.began
        )
    except AgentError as error:
        print(f"holdover: no trace: {error}", file=sys.stderr)
        return
    if found.missing:
        print(f"holdover: {found.missing}", file=sys.stderr)
    if order.trace is not None:
        write_and_show(found.trace, order.trace, None if order.json else screen())


def _show_checks(state: MigrationState, json: bool) -> None:
    if json:
        print(msgspec.json.encode(state).decode())
        return
    console = screen()
    for check in state.checks:
        console.print(check, markup=False, highlight=False, soft_wrap=True)


def end(state: MigrationState, why: str, json: bool) -> None:
    """Say how a migration has ended, or where it is when the command leaves it; end by that exit status.

    ``why`` says why the command leaves it before its end; empty if it is over.
    """
    if json:
        print(msgspec.json.encode(state).decode())
    elif state.moved:
        _show_moved(state)
    elif state.open:
        _show_left(state, why)
    else:
        refuse(f"{state.reason}\nNow: {state.now}.{_next(state)}{_problem(state)}", ExitStatus.NOT_DONE)
    if state.in_doubt:
        sys.exit(ExitStatus.IN_DOUBT)
    if not state.open and not state.moved:
        sys.exit(ExitStatus.NOT_DONE)


def _show_moved(state: MigrationState) -> None:
    console = screen()
    console.print(moved_luns(state.luns), crop=False)
    moved = "" if state.commit_ms is None else f": reservations in {state.commit_ms:.1f} ms"
    still = "" if state.standstill_ms is None else f", guest stood still for {state.standstill_ms:.1f} ms"
    console.print(f"Guest {state.guest} moved from {state.source} to {state.destination}{moved}{still}.")
    if state.problem:
        console.print(f"[yellow]Check this:[/] {escape(state.problem)}", soft_wrap=True)
    if state.next:
        console.print(f"Next: {state.next}.", markup=False, highlight=False, soft_wrap=True)


def _show_left(state: MigrationState, why: str) -> None:
    console = screen()
    text = (
        f"Migration {state.migration_id} of guest {state.guest} is {state.phase} ({why}).\nNow: {state.now}."
        f"{_next(state)}{_problem(state)}\nholdover migrations shows it; holdover migrations attach "
        f"{state.guest} follows it."
    )
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _next(state: MigrationState) -> str:
    return f"\nNext: {state.next}." if state.next else ""


def _problem(state: MigrationState) -> str:
    return f"\nHeld up by: {state.problem}" if state.problem else ""
