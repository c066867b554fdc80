"""``holdover migrate``."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from holdover.agent.api import Stale
from holdover.agent.client import AgentClient, AgentError
from holdover.agent.config import ConfigError
from holdover.agent.orchestrator import COPY, FAIL_AFTER, SWITCH_OVER, Orchestrator, Qemus
from holdover.agent.outcome import MigrateFailed, Outcome, Progress
from holdover.cli.asking import Asking
from holdover.cli.console import plain_table, screen
from holdover.cli.errors import refuse
from holdover.cli.tracing import collect, require_suffix, write_and_show
from holdover.cli.two_agents import two_agents
from holdover.scsi.opcodes import ReservationType
from holdover.trace.trace import Trace

__all__ = ["MigrateOptions", "run"]

_MARKS = {"begins": "…", "goes on": "…", "done": "✓", "failed": "✗"}


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """What ``holdover migrate`` was asked for; `holdover.cli.main` says what each means."""

    guest: str
    source: str
    destination: str
    source_qmp: Path | None
    destination_qmp: Path | None
    migrate_uri: str | None
    destination_waits: bool | None
    timeout: float
    stale: Stale
    fail_after: str | None
    trace: Path | None
    json: bool


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


def run(options: MigrateOptions, asking: Asking) -> None:
    """Move a guest; exit status 1 when it stays, 3 when that is in doubt."""
    if options.fail_after is not None and options.fail_after not in FAIL_AFTER:
        refuse(f"--fail-after {options.fail_after}: choose one of {', '.join(FAIL_AFTER)}")
    if options.trace is not None:
        require_suffix(options.trace)
    qemus = _qemus(options)
    screenful = _Screenful(options.json)
    try:
        ended, trace = asyncio.run(_migrate(options, asking, qemus, screenful))
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        refuse(f"{error}\nNothing was changed.", 1)
    screenful.flush()
    if isinstance(ended, Outcome):
        _tell_success(ended, screenful, options.json)
    if trace is not None and options.trace is not None:
        write_and_show(trace, options.trace, None if options.json else screen())
    if isinstance(ended, MigrateFailed):
        _tell_failure(ended, screenful, options.json)


def _qemus(options: MigrateOptions) -> Qemus | None:
    source, destination, uri = options.source_qmp, options.destination_qmp, options.migrate_uri
    if source is None and destination is None and uri is None:
        return None
    if source is None or destination is None or uri is None:
        refuse("--source-qmp, --destination-qmp and --migrate-uri belong together; give all three or none")
    return Qemus(source, destination, uri, options.timeout, options.destination_waits)


async def _migrate(
    options: MigrateOptions, asking: Asking, qemus: Qemus | None, screenful: _Screenful
) -> tuple[Outcome | MigrateFailed, Trace | None]:
    task = asyncio.current_task()
    if task is not None:
        # as an interrupt from the keyboard: what is half done is rolled back
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with two_agents(asking, options.source, options.destination) as agents:
        orchestrator = Orchestrator(
            options.guest,
            agents.source,
            agents.asked_destination,
            screenful.tell,
            to=agents.to,
            stale=options.stale,
            fail_after=options.fail_after,
        )
        ended: Outcome | MigrateFailed
        try:
            ended = await orchestrator.run(qemus)
        except MigrateFailed as error:
            ended = error
        trace = None
        if options.trace is not None:
            trace = await _trace(orchestrator, agents.destination, screenful)
        return ended, trace


async def _trace(
    orchestrator: Orchestrator, destination: AgentClient | None, screenful: _Screenful
) -> Trace | None:
    try:
        return await collect(
            orchestrator.guest,
            orchestrator.source,
            destination,
            handover=orchestrator.handover,
            steps=screenful.seen,
            began=orchestrator.began,
            events=orchestrator.events,
        )
    except AgentError as error:
        screenful.errors.print(f"holdover: no trace: {error}", markup=False, soft_wrap=True)
        return None


class _Screenful:
    """Shows progress, one line each; not while the guest stands still, as printing takes its time.

    Attributes:
        seen: All of it.
        errors: Where it is shown.
    """

    def __init__(self, json: bool) -> None:
        self.seen: list[Progress] = []
        self.errors = Console(stderr=True)
        self._json = json
        self._held: list[Progress] = []
        self._holds = False

    def tell(self, progress: Progress) -> None:
        """Note it, and show it now or later."""
        self.seen.append(progress)
        if progress.action == COPY and progress.state == "done":
            self._holds = True
        elif progress.action == SWITCH_OVER and progress.state in ("done", "failed"):
            self._holds = False
        self._held.append(progress)
        if not self._holds:
            self.flush()

    def flush(self) -> None:
        """Show what was held back."""
        held, self._held = self._held, []
        for progress in held:
            if not self._json:
                self._show(progress)

    def _show(self, progress: Progress) -> None:
        """On a terminal what only goes on overwrites its line."""
        live = progress.state in ("begins", "goes on")
        if live and not self.errors.is_terminal:
            return
        took = "" if live else f"{progress.milliseconds:8.1f} ms"
        where = f" on {progress.host}" if progress.host else ""
        text = (
            f"{progress.at:7.3f} s  {_MARKS[progress.state]} {progress.phase:8}  "
            f"{progress.action}{where}  {took}  {progress.detail}"
        )
        end = "\r" if live else "\n"
        self.errors.print(text.rstrip(), end=end, highlight=False, markup=False, soft_wrap=True)


def _tell_success(outcome: Outcome, screenful: _Screenful, json: bool) -> None:
    if json:
        print(msgspec.json.encode(_Success(outcome=outcome, progress=screenful.seen)).decode())
        return
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
        console.print(f"[yellow]Look at this:[/] {escape(warning)}", soft_wrap=True)


def _tell_failure(error: MigrateFailed, screenful: _Screenful, json: bool) -> None:
    status = 3 if error.in_doubt else 1
    if not json:
        refuse(str(error), status)
    failure = _Failure(error=error.reason, now=error.now, in_doubt=error.in_doubt, progress=screenful.seen)
    print(msgspec.json.encode(failure).decode())
    sys.exit(status)
