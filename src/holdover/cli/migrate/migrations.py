"""``holdover migrations``: the migrations that agents drive, in a table or in JSON; attach, cancel, set."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec
from rich.live import Live
from rich.text import Text

from holdover.api.client import AgentClient, AgentError
from holdover.api.migration_documents import MigrationChange, MigrationState
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.cli.migrate.following import Detached, Follower, described_memory
from holdover.cli.migrate.migrating import end
from holdover.config.agent_file import ConfigError
from holdover.terminal import PlainTable, screen

__all__ = ["attach", "cancel", "change", "show"]

T = TypeVar("T")

_INTERVAL = 0.5


def show(at: str, asking: Asking, watch: bool, json: bool) -> None:
    """Show the newest migration of each guest; with ``watch`` until interrupted."""

    async def ask(client: AgentClient) -> None:
        if not watch:
            found = await client.migrations()
            if json:
                print(msgspec.json.encode(found).decode())
            else:
                screen().print(_table(found.migrations), crop=False)
            return
        if json:
            while True:
                print(msgspec.json.encode(await client.migrations()).decode(), flush=True)
                await asyncio.sleep(_INTERVAL)
        with Live(console=screen(), auto_refresh=False) as live:
            while True:
                live.update(_table((await client.migrations()).migrations, live=True), refresh=True)
                await asyncio.sleep(_INTERVAL)

    _with(at, asking, ask)


def attach(guest: str, at: str, asking: Asking, json: bool) -> None:
    """Follow a migration to its end."""

    async def ask(client: AgentClient) -> tuple[MigrationState, str]:
        state = await client.migration(guest)
        try:
            return await Follower(client, guest, quiet=json).follow(state), ""
        except Detached as error:
            return error.state, str(error)

    end(*_with(at, asking, ask), json)


def cancel(guest: str, at: str, asking: Asking, json: bool) -> None:
    """Let a guest stay, and follow its migration to its end; exit status 0 if the guest stays."""

    async def ask(client: AgentClient) -> tuple[MigrationState, str]:
        state = await client.cancel_migration(guest)
        try:
            return await Follower(client, guest, quiet=json).follow(state), ""
        except Detached as error:
            return error.state, str(error)

    state, why = _with(at, asking, ask)
    if json or state.open or state.moved:
        end(state, why, json)
        return
    problem = f"\nCheck this: {state.problem}" if state.problem else ""
    screen().print(f"Cancelled: {state.now}.{problem}", markup=False, highlight=False, soft_wrap=True)


def change(guest: str, at: str, wanted: MigrationChange, asking: Asking, json: bool) -> None:
    """Change bandwidth or downtime of a migration that is under way."""

    async def ask(client: AgentClient) -> MigrationState:
        return await client.change_migration(guest, wanted)

    state = _with(at, asking, ask)
    if json:
        print(msgspec.json.encode(state).decode())


def _with(at: str, asking: Asking, ask: Callable[[AgentClient], Awaitable[T]]) -> T:
    async def do() -> T:
        (client,) = asking.clients(at)
        try:
            return await ask(client)
        finally:
            await client.close()

    try:
        return asyncio.run(do())
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        refuse(str(error), 1)


def _table(migrations: tuple[MigrationState, ...], *, live: bool = False) -> PlainTable:
    table = PlainTable("GUEST", "FROM", "TO", "PHASE", "NOW", "NEXT", folds=live)
    for each in migrations:
        now = each.now + described_memory(each.memory if each.open else None)
        if each.reason:
            now += f" (because: {each.reason})"
        phase = Text(f"{each.phase}, in doubt", "red") if each.in_doubt else Text(each.phase)
        comes = f"{each.problem}; {each.next}" if each.problem else each.next
        table.add_row(each.guest, each.source, each.destination, phase, now, comes)
    return table
