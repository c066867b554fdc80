"""``holdover migrations``: the migrations that agents drive, in a table or in JSON; attach, cancel, set."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import msgspec
from rich.live import Live
from rich.text import Text

from holdover.api.client import AgentClient
from holdover.api.migration_documents import MigrationChange, MigrationState
from holdover.cli.asking import Asking
from holdover.cli.migrate.following import Detached, Follower, described_memory
from holdover.cli.migrate.migrating import end
from holdover.cli.one_agent import ask_agent
from holdover.terminal import PlainTable, screen

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
        if not screen().is_terminal:
            await _print_changes(client)
        with Live(console=screen(), auto_refresh=False) as live:
            while True:
                live.update(_table((await client.migrations()).migrations, live=True), refresh=True)
                await asyncio.sleep(_INTERVAL)

    ask_agent(at, asking, ask)


async def _print_changes(client: AgentClient) -> NoReturn:
    """Print the table whenever it is another one, as a file or a pipe cannot be redrawn."""
    console, last = screen(), ""
    while True:
        with console.capture() as table:
            console.print(_table((await client.migrations()).migrations), crop=False)
        if table.get() != last:
            last = table.get()
            print(last, end="", flush=True)
        await asyncio.sleep(_INTERVAL)


def attach(guest: str, at: str, asking: Asking, json: bool) -> None:
    """Follow a migration to its end."""

    async def ask(client: AgentClient) -> tuple[MigrationState, str]:
        return await _followed(client, guest, await client.migration(guest), json)

    end(*ask_agent(at, asking, ask), json)


def cancel(guest: str, at: str, asking: Asking, json: bool) -> None:
    """Let a guest stay, and follow its migration to its end; exit status 0 if the guest stays."""

    async def ask(client: AgentClient) -> tuple[MigrationState, str]:
        return await _followed(client, guest, await client.cancel_migration(guest), json)

    state, why = ask_agent(at, asking, ask)
    if json or state.open or state.moved:
        end(state, why, json)
        return
    problem = f"\nCheck this: {state.problem}" if state.problem else ""
    screen().print(f"Cancelled: {state.now}.{problem}", markup=False, highlight=False, soft_wrap=True)


async def _followed(
    client: AgentClient, guest: str, state: MigrationState, json: bool
) -> tuple[MigrationState, str]:
    """The last state that was seen, and why it is not the end; empty if it is."""
    try:
        return await Follower(client, guest, quiet=json).follow(state), ""
    except Detached as error:
        return error.state, str(error)


def change(guest: str, at: str, wanted: MigrationChange, asking: Asking, json: bool) -> None:
    """Change bandwidth or downtime of a migration that is under way."""

    async def ask(client: AgentClient) -> MigrationState:
        return await client.change_migration(guest, wanted)

    state = ask_agent(at, asking, ask)
    if json:
        print(msgspec.json.encode(state).decode())


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
