"""``holdover demo``: plays two acts, and shows them as a live timeline, a table and a page."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path

import msgspec
from rich.console import Console
from rich.live import Live

from holdover.cli.errors import refuse
from holdover.demo.act import Act, Sums, perform
from holdover.demo.page import page
from holdover.demo.processes import DemoFailed
from holdover.demo.timeline import draw, table
from holdover.demo.watching import Recording
from holdover.migrate.result import MigrateFailed
from holdover.terminal import screen

_REFRESH = 0.1
_PAGES = {False: "holdover-demo.html", True: "holdover-demo-vm.html"}
"""The page's name unless given, by whether the act has a virtual machine: neither replaces the other."""
_SPANS = {False: 4.0, True: 40.0}
"""About how many seconds an act lasts, by whether it has a virtual machine: the length of the timeline."""


class _Answer(msgspec.Struct, kw_only=True):
    """The document of ``--json``: ``without`` is the act with ``migrate-pr=off``, ``with`` the other act."""

    without: Sums
    with_: Sums = msgspec.field(name="with")
    html: str


Watch = Callable[[Recording], None]


def run(*, vm: bool, html: Path | None, json: bool, install: bool) -> None:
    """Play both acts. Exit with 1 if one cannot be played, or if the act with ``migrate-pr=on`` does harm."""
    play: Callable[[bool, Watch], Awaitable[Act]] = perform
    if vm:
        from holdover.demo.vm import VmMissing, perform_vm, prepare

        try:
            prepare(sys.stderr, (lambda _: True) if install else _agrees)
        except VmMissing as error:
            refuse(str(error), 1)
        play = perform_vm
    try:
        acts = asyncio.run(_acts(play, vm, json))
    except (DemoFailed, MigrateFailed) as error:
        refuse(str(error), 1)
    html = html or Path(_PAGES[vm])
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


def _agrees(question: str) -> bool:
    """Whether the person at the terminal says yes; without a terminal nobody does."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    print(f"holdover: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _harm(sums: Sums) -> bool:
    return bool(sums.guest_write_errors or sums.intruder_writes_accepted or sums.blocks_damaged)


async def _acts(play: Callable[[bool, Watch], Awaitable[Act]], vm: bool, json: bool) -> list[Act]:
    console = Console(stderr=True) if json else screen()
    return [await _show(play, migrate_pr, console, _SPANS[vm], json) for migrate_pr in (False, True)]


async def _show(
    play: Callable[[bool, Watch], Awaitable[Act]], migrate_pr: bool, console: Console, span: float, json: bool
) -> Act:
    """Play one act and draw its timeline: live on a terminal, else at the end."""
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
