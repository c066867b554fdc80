"""``holdover demo``: two acts, a live timeline, a table and a page."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live

from holdover.agent.outcome import MigrateFailed
from holdover.cli.console import screen
from holdover.cli.errors import refuse
from holdover.demo.act import Act, Sums, perform
from holdover.demo.page import page
from holdover.demo.processes import DemoFailed
from holdover.demo.timeline import draw, table
from holdover.demo.watching import Recording

__all__ = ["run"]

_REFRESH = 0.1
_SPANS = {False: 4.0, True: 40.0}
"""Seconds that an act lasts about, by whether a virtual machine plays: the timeline's length."""


class _Answer(msgspec.Struct, kw_only=True):
    """What ``--json`` prints. ``without`` is the act with ``migrate-pr=off``, ``with`` that with it on."""

    without: Sums
    with_: Sums = msgspec.field(name="with")
    html: str


Watch = Callable[[Recording], None]


def run(*, vm: bool, html: Path, json: bool) -> None:
    """Play both acts; exit status 1 when the act with migration on did harm, or one could not be played."""
    play: Callable[[bool, Watch], Awaitable[Act]] = perform
    if vm:
        from holdover.demo.vm import VmMissing, perform_vm, prepare

        try:
            prepare(sys.stderr)
        except VmMissing as error:
            refuse(str(error), 1)
        play = perform_vm
    try:
        acts = asyncio.run(_acts(play, vm, json))
    except (DemoFailed, MigrateFailed) as error:
        refuse(str(error), 1)
    html.write_text(page(acts), encoding="utf-8")
    without, with_ = acts
    if json:
        print(msgspec.json.encode(_Answer(without=without.sums, with_=with_.sums, html=str(html))).decode())
    else:
        console = screen()
        console.print(table(acts))
        console.print(f"\nTimeline: {html.resolve()}", highlight=False, soft_wrap=True)
    if _harm(with_.sums):
        refuse("the act with migrate-pr=on did harm; it must not", 1)


def _harm(sums: Sums) -> bool:
    return bool(sums.guest_write_errors or sums.intruder_writes_accepted or sums.blocks_damaged)


async def _acts(play: Callable[[bool, Watch], Awaitable[Act]], vm: bool, json: bool) -> list[Act]:
    console = Console(stderr=True) if json else screen()
    return [await _show(play, migrate_pr, console, _SPANS[vm], json) for migrate_pr in (False, True)]


async def _show(
    play: Callable[[bool, Watch], Awaitable[Act]], migrate_pr: bool, console: Console, span: float, json: bool
) -> Act:
    """Play one act with its timeline drawn while it goes; without a terminal it is drawn at the end."""
    title = f"migrate-pr={'on' if migrate_pr else 'off'}"
    width = max(40, min(console.width - 20, 120))
    seen: list[Recording] = []

    def watch(recording: Recording) -> None:
        if not seen:
            seen.append(recording)

    live = Live(console=console, auto_refresh=False) if console.is_terminal and not json else None
    with live or nullcontext():
        act_task = asyncio.ensure_future(play(migrate_pr, watch))
        while not act_task.done():
            await asyncio.wait([act_task], timeout=_REFRESH)
            if live is not None and seen:
                live.update(draw(title, seen[0], width, max(span, seen[0].now)), refresh=True)
        act = act_task.result()
        drawn = draw(title, act.recording, width, act.recording.ended or span)
        if live is not None:
            live.update(drawn, refresh=True)
    if live is None and not json:
        console.print(drawn)
    return act
