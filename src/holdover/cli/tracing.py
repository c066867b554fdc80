"""``--trace FILE``: collects what both agents and both QEMUs know of a handover, writes it and shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from holdover.api.client import AgentClient, AgentError
from holdover.api.documents import HandoverState
from holdover.cli.errors import refuse
from holdover.migrate.result import Progress
from holdover.qemu.monitor import QmpEvent
from holdover.terminal import PlainTable
from holdover.trace.chrome import chrome_trace
from holdover.trace.page import page
from holdover.trace.table import lines_of
from holdover.trace.trace import HostTrace, Instant, Interval, Trace, assemble

_DRIVER = "holdover migrate"
_NOISE = "MIGRATION_PASS"  # QEMU sends one each time that it begins to send the memory again
_SUFFIXES = (".html", ".json")


@dataclass(frozen=True, slots=True)
class Collected:
    """A trace. ``missing``: why it lacks the destination's part; empty if it lacks nothing."""

    trace: Trace
    missing: str


def require_suffix(file: Path) -> None:
    """Refuse a file whose name ends neither with .html nor with .json."""
    if file.suffix not in _SUFFIXES:
        refuse(f"{file}: give it the suffix .html (a page) or .json (for Perfetto, about:tracing)")


async def collect(
    guest: str,
    source: AgentClient,
    destination: AgentClient | None,
    *,
    handover_id: str = "",
    steps: Sequence[Progress] = (),
    began: float = 0.0,
    events: Sequence[tuple[str, QmpEvent]] = (),
) -> Collected:
    """The trace of the guest's newest handover. Without an answer it lacks the destination's part.

    Args:
        guest: The guest's name.
        source: The source's agent.
        destination: The destination's agent; None leaves out its part.
        handover_id: The id of the handover, if it is known. The trace of another handover is refused.
        steps: The steps of ``holdover migrate``; ``Progress.at`` counts from ``began``.
        began: When ``holdover migrate`` began, in seconds since the epoch.
        events: The events of both QEMUs, with the host of each.

    Raises:
        AgentError: The source's agent does not answer, or does not know the handover.
    """
    told = await source.handover(guest)
    if handover_id and told.handover_id != handover_id:
        raise AgentError(f"agent at {source.api}: the newest handover of guest {guest} is another one")
    there, missing = await _other_side(guest, told, destination)
    host = told.peer if there is None else there.host
    driver = HostTrace(_DRIVER, tuple(_interval(step, began) for step in steps if _has_ended(step)))
    trace = assemble(
        guest,
        told.handover_id,
        HostTrace(told.host, _intervals(told), _instants(told.host, events)),
        HostTrace(host, () if there is None else _intervals(there), _instants(host, events)),
        driver if steps else None,
    )
    return Collected(trace, missing)


async def _other_side(
    guest: str, told: HandoverState, destination: AgentClient | None
) -> tuple[HandoverState | None, str]:
    """The handover as the destination knows it, or why that is not known."""
    if destination is None:
        return None, ""
    try:
        there = await destination.handover(guest)
    except AgentError as error:
        return None, f"the trace lacks the destination's part: {error}"
    if there.handover_id != told.handover_id:
        other = f"its newest handover of guest {guest} is {there.handover_id}, not {told.handover_id}"
        return None, f"the trace lacks the destination's part: agent at {destination.api}: {other}"
    return there, ""


def _has_ended(step: Progress) -> bool:
    return step.state in ("done", "failed")


def _interval(step: Progress, began: float) -> Interval:
    ended = began + step.at
    detail = f"failed: {step.detail}" if step.state == "failed" else step.detail
    return Interval(step.action, _DRIVER, "", ended - step.milliseconds / 1000, ended, detail, step=True)


def _intervals(told: HandoverState) -> tuple[Interval, ...]:
    return tuple(Interval(each.name, told.host, each.lun, each.began, each.ended) for each in told.spans)


def _instants(host: str, events: Sequence[tuple[str, QmpEvent]]) -> tuple[Instant, ...]:
    return tuple(
        Instant(
            event.name, host, event.time.seconds + event.time.microseconds / 1e6, event.migration_status or ""
        )
        for where, event in events
        if where == host and event.name != _NOISE
    )


def _write(trace: Trace, file: Path) -> None:
    """Write the trace in the format that the file's suffix names."""
    content = page(trace).encode() if file.suffix == ".html" else chrome_trace(trace)
    try:
        file.write_bytes(content)
    except OSError as error:
        refuse(f"{file}: {error.strerror}", 1)


def _show(trace: Trace, console: Console) -> None:
    """Print the trace as a table."""
    table = PlainTable("AT ms", "TOOK ms", "HOST", "WHAT", "", right=(0, 1))
    for line in lines_of(trace):
        took = "" if line.milliseconds is None else f"{line.milliseconds:.2f}"
        what = "  " * line.depth + line.what
        table.add_row(f"{line.at:.2f}", took, line.host, what, line.detail)
    console.print(table, crop=False)


def write_and_show(trace: Trace, file: Path, console: Console | None) -> None:
    """Write the trace, and print it if there is a console."""
    _write(trace, file)
    if console is not None:
        _show(trace, console)
        console.print(f"Trace: {file.resolve()}", highlight=False, soft_wrap=True)
