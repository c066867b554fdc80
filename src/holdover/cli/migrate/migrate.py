"""``holdover migrate``: moves a guest and shows the progress and the result."""

from __future__ import annotations

import asyncio
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from holdover.api.client import AgentClient, AgentError
from holdover.api.documents import Stale
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.cli.migrate.moved_luns import moved_luns
from holdover.cli.tracing import collect, require_suffix, write_and_show
from holdover.cli.two_agents import two_agents
from holdover.config.agent_file import ConfigError
from holdover.migrate.job import COPY, SWITCH_OVER, MigrationJob, Qemus
from holdover.migrate.result import MigrateFailed, MigrationResult, Progress, exit_status
from holdover.terminal import screen
from holdover.trace.trace import Trace

_MARKS = {"begins": "…", "goes on": "…", "done": "✓", "failed": "✗"}


@dataclass(frozen=True, slots=True)
class MigrateOptions:
    """The options of ``holdover migrate``; their help is in `holdover.cli.main`."""

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
    """The document of ``--json`` if the guest was not moved."""

    error: str
    now: str
    in_doubt: bool
    progress: list[Progress]


class _Success(msgspec.Struct, kw_only=True):
    """The document of ``--json`` if the guest was moved."""

    outcome: MigrationResult
    progress: list[Progress]


def run(options: MigrateOptions, asking: Asking) -> None:
    """Move a guest. Exit with 1 if it was not moved, with 3 if that is in doubt."""
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
    if isinstance(ended, MigrationResult):
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
) -> tuple[MigrationResult | MigrateFailed, Trace | None]:
    task = asyncio.current_task()
    if task is not None:
        # SIGTERM does the same as an interrupt from the keyboard: it rolls the handover back.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with two_agents(asking, options.source, options.destination) as agents:
        orchestrator = MigrationJob(
            options.guest,
            agents.source,
            agents.asked_destination,
            screenful.tell,
            to=agents.to,
            stale=options.stale,
            fail_after=options.fail_after,
        )
        ended: MigrationResult | MigrateFailed
        try:
            ended = await orchestrator.run(qemus)
        except MigrateFailed as error:
            ended = error
        trace = None
        if options.trace is not None:
            trace = await _trace(orchestrator, agents.destination, screenful)
        return ended, trace


async def _trace(
    orchestrator: MigrationJob, destination: AgentClient | None, screenful: _Screenful
) -> Trace | None:
    try:
        found = await collect(
            orchestrator.guest,
            orchestrator.source,
            destination,
            handover_id=orchestrator.handover_id,
            steps=screenful.seen,
            began=orchestrator.began,
            events=orchestrator.events,
        )
    except AgentError as error:
        screenful.errors.print(f"holdover: no trace: {error}", markup=False, soft_wrap=True)
        return None
    if found.missing:
        screenful.errors.print(f"holdover: {found.missing}", markup=False, soft_wrap=True)
    return found.trace


class _Screenful:
    """Shows the progress, one line for each step.

    While the guest stands still it prints nothing, because that takes time. It prints those lines afterwards.

    Attributes:
        seen: All steps so far.
        errors: The console on which they are shown.
    """

    def __init__(self, json: bool) -> None:
        self.seen: list[Progress] = []
        self.errors = Console(stderr=True)
        self._json = json
        self._held: list[Progress] = []
        self._holds = False

    def tell(self, progress: Progress) -> None:
        """Note a step, and show it now or when the guest runs again."""
        self.seen.append(progress)
        if progress.action == COPY and progress.state == "done":
            self._holds = True
        elif progress.action == SWITCH_OVER and progress.state in ("done", "failed"):
            self._holds = False
        self._held.append(progress)
        if not self._holds:
            self.flush()

    def flush(self) -> None:
        """Show the steps that were held back."""
        held, self._held = self._held, []
        for progress in held:
            if not self._json:
                self._show(progress)

    def _show(self, progress: Progress) -> None:
        """Show one step. On a terminal a step that has not ended overwrites its line.

        Why a step has failed is left out: the command says it at its end, with what is true then.
        """
        live = progress.state in ("begins", "goes on")
        if live and not self.errors.is_terminal:
            return
        took = "" if live else f"{progress.milliseconds:8.1f} ms"
        where = f" on {progress.host}" if progress.host else ""
        detail = "" if progress.state == "failed" else progress.detail
        text = (
            f"{progress.at:7.3f} s  {_MARKS[progress.state]} {progress.phase:8}  "
            f"{progress.action}{where}  {took}  {detail}"
        )
        end = "\r" if live else "\n"
        self.errors.print(text.rstrip(), end=end, highlight=False, markup=False, soft_wrap=True)


def _tell_success(outcome: MigrationResult, screenful: _Screenful, json: bool) -> None:
    if json:
        print(msgspec.json.encode(_Success(outcome=outcome, progress=screenful.seen)).decode())
        return
    console = screen()
    console.print(moved_luns(outcome.devices), crop=False)
    still = "" if outcome.standstill_ms is None else f", guest stood still for {outcome.standstill_ms:.1f} ms"
    console.print(
        f"Guest {outcome.guest} moved from {outcome.source} to {outcome.destination}: "
        f"reservations in {outcome.milliseconds:.1f} ms{still}."
    )
    for warning in outcome.warnings:
        console.print(f"[yellow]Check this:[/] {escape(warning)}", soft_wrap=True)


def _tell_failure(error: MigrateFailed, screenful: _Screenful, json: bool) -> None:
    status = exit_status(in_doubt=error.in_doubt)
    if not json:
        refuse(str(error), status)
    failure = _Failure(error=error.reason, now=error.now, in_doubt=error.in_doubt, progress=screenful.seen)
    print(msgspec.json.encode(failure).decode())
    sys.exit(status)
