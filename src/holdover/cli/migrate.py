"""``holdover migrate`` and ``holdover rollback``."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from rich.console import Console

from holdover.agent.api import Step
from holdover.agent.config import ConfigError
from holdover.agent.orchestrator import MigrateFailed, Orchestrator, Outcome, Progress, Qemus
from holdover.cli.asking import Asking
from holdover.cli.console import plain_table, screen
from holdover.cli.errors import refuse
from holdover.scsi.opcodes import ReservationType

__all__ = ["roll_back", "run"]

T = TypeVar("T")

_FAIL_AFTER = (Step.LEAVE, Step.REGISTER, Step.GIVE, Step.PREEMPT)
_MARKS = {"begins": "…", "goes on": "…", "done": "✓", "failed": "✗"}


class _Failure(msgspec.Struct, kw_only=True):
    """What ``--json`` prints when the guest was not moved."""

    error: str
    now: str
    in_doubt: bool
    progress: list[Progress]


class _Success(msgspec.Struct, kw_only=True):
    """What ``--json`` prints when it was."""

    outcome: Outcome
    progress: list[Progress]


def run(
    guest: str,
    source: str,
    destination: str,
    asking: Asking,
    qmp: tuple[Path | None, Path | None, str | None],
    timeout: float,
    fail_after: str | None,
    json: bool,
) -> None:
    """Move a guest; exit status 1 when it stays, 3 when that is in doubt."""
    steps = {step.value: step for step in _FAIL_AFTER}
    if fail_after is not None and fail_after not in steps:
        refuse(f"--fail-after {fail_after}: choose one of {', '.join(steps)}")
    qemus = _qemus(qmp, timeout)

    async def move(orchestrator: Orchestrator) -> Outcome:
        orchestrator.fail_after = steps[fail_after] if fail_after is not None else None
        return await orchestrator.run(qemus)

    seen, outcome = _with_orchestrator((guest, source, destination), asking, json, move)
    if json:
        print(msgspec.json.encode(_Success(outcome=outcome, progress=seen)).decode())
    else:
        _show(outcome)


def roll_back(guest: str, source: str, destination: str, asking: Asking, json: bool) -> None:
    """Bring the reservations back to the source; exit status 3 when that cannot be done."""
    seen, _ = _with_orchestrator((guest, source, destination), asking, json, Orchestrator.roll_back)
    _show_end(seen, json, f"The commands of guest {guest} pass at {source} again, with its reservations.")


def finish(guest: str, source: str, destination: str, asking: Asking, json: bool) -> None:
    """Shut the source's gate for a guest that has moved; exit status 1 when it has not."""
    seen, _ = _with_orchestrator((guest, source, destination), asking, json, Orchestrator.finish)
    _show_end(seen, json, f"Guest {guest} is at {destination}; at {source} it has departed.")


def _show_end(seen: list[Progress], json: bool, text: str) -> None:
    print(msgspec.json.encode(seen).decode() if json else text)


def _qemus(qmp: tuple[Path | None, Path | None, str | None], timeout: float) -> Qemus | None:
    source, destination, uri = qmp
    if source is None and destination is None and uri is None:
        return None
    if source is None or destination is None or uri is None:
        refuse("--source-qmp, --destination-qmp and --migrate-uri belong together; give all three or none")
    return Qemus(source=source, destination=destination, uri=uri, timeout=timeout)


def _with_orchestrator(
    between: tuple[str, str, str],
    asking: Asking,
    json: bool,
    what: Callable[[Orchestrator], Awaitable[T]],
) -> tuple[list[Progress], T]:
    """Run ``what`` with clients of both agents; its progress, shown meanwhile, and its result.

    ``between`` are the guest, the source's API and the destination's.
    """
    guest, *apis = between
    seen: list[Progress] = []
    errors = Console(stderr=True)

    def tell(progress: Progress) -> None:
        seen.append(progress)
        if not json:
            _show_progress(errors, progress)

    async def go() -> T:
        source, destination = asking.clients(*apis)
        task = asyncio.current_task()
        if task is not None:
            # as an interrupt from the keyboard: what is half done is rolled back
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return await what(Orchestrator(guest, source, destination, tell))
        finally:
            await source.close()
            await destination.close()

    try:
        return seen, asyncio.run(go())
    except ConfigError as error:
        refuse(str(error))
    except MigrateFailed as error:
        if json:
            failure = _Failure(error=error.reason, now=error.now, in_doubt=error.in_doubt, progress=seen)
            print(msgspec.json.encode(failure).decode())
            sys.exit(3 if error.in_doubt else 1)
        refuse(str(error), 3 if error.in_doubt else 1)


def _show_progress(console: Console, progress: Progress) -> None:
    """One line each; on a terminal what only goes on overwrites its line."""
    live = progress.state in ("begins", "goes on")
    if live and not console.is_terminal:
        return
    took = "" if live else f"{progress.milliseconds:8.1f} ms"
    where = f" on {progress.host}" if progress.host else ""
    text = (
        f"{progress.at:7.3f} s  {_MARKS[progress.state]} {progress.phase:8}  "
        f"{progress.action}{where}  {took}  {progress.detail}"
    )
    console.print(text.rstrip(), end="\r" if live else "\n", highlight=False, markup=False, soft_wrap=True)


def _show(outcome: Outcome) -> None:
    table = plain_table("LUN", "KEY", "TYPE", "APTPL")
    for device in outcome.devices:
        if not device.migrate_pr:
            table.add_row(device.designator, "migrate-pr=off: reservations stay", "", "")
            continue
        kind = "-" if device.type is None else f"{ReservationType(device.type).short_name} ({device.type})"
        key = f"{device.key:#x}" if device.key else "-"
        table.add_row(device.designator, key, kind, "yes" if device.aptpl else "no")
    console = screen()
    console.print(table)
    still = "" if outcome.standstill_ms is None else f", guest stood still for {outcome.standstill_ms:.1f} ms"
    console.print(
        f"Guest {outcome.guest} moved from {outcome.source} to {outcome.destination}: "
        f"reservations in {outcome.milliseconds:.1f} ms{still}."
    )
    for warning in outcome.warnings:
        console.print(f"[yellow]Look at this:[/] {warning}")
