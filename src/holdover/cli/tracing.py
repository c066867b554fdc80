"""``--trace FILE``: collects what both agents and both QEMUs know of a handover, and writes and shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from holdover.agent.api import HandoverState
from holdover.agent.client import AgentClient, AgentError
from holdover.agent.outcome import Progress
from holdover.cli.console import plain_table
from holdover.cli.errors import refuse
from holdover.qemu.monitor import QmpEvent
from holdover.trace.chrome import chrome_trace
from holdover.trace.page import page
from holdover.trace.table import lines_of
from holdover.trace.trace import Instant, Interval, Part, Trace, assemble

__all__ = ["collect", "require_suffix", "write_and_show"]

_DRIVER = "holdover migrate"
_NOISE = "MIGRATION_PASS"  # one for each time that QEMU begins to send memory again
_SUFFIXES = (".html", ".json")


def require_suffix(file: Path) -> None:
    """Refuse a file that is neither a page nor JSON."""
    if file.suffix not in _SUFFIXES:
        refuse(f"{file}: give it the suffix .html (a page) or .json (for Perfetto, about:tracing)")


async def collect(
    guest: str,
    source: AgentClient,
    destination: AgentClient | None,
    *,
    handover: str = "",
    steps: Sequence[Progress] = (),
    began: float = 0.0,
    events: Sequence[tuple[str, QmpEvent]] = (),
) -> Trace:
    """The trace of a handover (the guest's newest), and what could not be asked is left out.

    Args:
        guest: Its name.
        source: The agent that the guest left, or was to leave.
        destination: The other; None: without its part.
        handover: Its identity, where it is known; another handover is not taken for it.
        steps: What the driver of the migration did, ``Progress.at`` counting from ``began``.
        began: Seconds since the epoch.
        events: Of both QEMUs, with the host of each.

    Raises:
        AgentError: The source cannot be asked, or knows of no such handover.
    """
    told = await source.handover(guest)
    if handover and told.handover != handover:
        raise AgentError(f"agent at {source.api}: the newest handover of guest {guest} is another one")
    there = await _other_side(guest, told, destination)
    host = told.peer if there is None else there.host
    driver = Part(_DRIVER, tuple(_interval(step, began) for step in steps if _has_ended(step)))
    return assemble(
        guest,
        told.handover,
        Part(told.host, _intervals(told), _instants(told.host, events)),
        Part(host, () if there is None else _intervals(there), _instants(host, events)),
        driver if steps else None,
    )


async def _other_side(
    guest: str, told: HandoverState, destination: AgentClient | None
) -> HandoverState | None:
    if destination is None:
        return None
    try:
        there = await destination.handover(guest)
    except AgentError:
        return None
    return there if there.handover == told.handover else None


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
    """Write it, as the file's suffix says."""
    content = page(trace).encode() if file.suffix == ".html" else chrome_trace(trace)
    try:
        file.write_bytes(content)
    except OSError as error:
        refuse(f"{file}: {error.strerror}", 1)


def _show(trace: Trace, console: Console) -> None:
    """As a table."""
    table = plain_table("AT ms", "TOOK ms", "HOST", "WHAT", "")
    table.columns[0].justify = table.columns[1].justify = "right"
    for line in lines_of(trace):
        took = "" if line.milliseconds is None else f"{line.milliseconds:.2f}"
        what = "  " * line.depth + line.what
        table.add_row(f"{line.at:.2f}", took, line.host, what, line.detail)
    console.print(table, markup=False)


def write_and_show(trace: Trace, file: Path, console: Console | None) -> None:
    """Both; without a console it is only written."""
    _write(trace, file)
    if console is not None:
        _show(trace, console)
        console.print(f"Trace: {file.resolve()}", highlight=False, soft_wrap=True)
