"""The timeline of an act: buckets of equal length, drawn in the terminal and on the page."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from holdover.demo.act import Act
from holdover.demo.watching import Recording


@dataclass(slots=True)
class Bucket:
    """The writes of one process within one stretch of time."""

    accepted: int = 0
    refused: int = 0


def buckets(recording: Recording, who: str, count: int, span: float) -> list[Bucket]:
    """The ticks of ``who`` in ``count`` buckets over ``span`` seconds."""
    lane = [Bucket() for _ in range(count)]
    for tick in recording.ticks:
        at = int((tick.at - recording.began) / span * count)
        if tick.who == who and 0 <= at < count:
            lane[at].accepted += tick.accepted
            lane[at].refused += tick.refused
    return lane


def steps_of(recording: Recording) -> list[tuple[str, str, float, float]]:
    """The steps of the handover that ended: name, host, begin and end in seconds."""
    return [
        (progress.action, progress.host, at - progress.milliseconds / 1000, at)
        for at, progress in recording.steps
        if progress.state in ("done", "failed")
    ]


def _guest(bucket: Bucket) -> tuple[str, str]:
    if bucket.refused:
        return "x", "red"
    return ("█", "green") if bucket.accepted else (" ", "")


def _intruder(bucket: Bucket) -> tuple[str, str]:
    if bucket.accepted:
        return "!", "bold red"
    return ("·", "dim") if bucket.refused else (" ", "")


def draw(title: str, recording: Recording, width: int, span: float) -> Group:
    """The lanes as they are now, in ``width`` columns for ``span`` seconds."""
    guest, intruder, host = Text(), Text(), Text()
    for bucket in buckets(recording, "guest", width, span):
        guest.append(*_guest(bucket))
    for bucket in buckets(recording, "intruder", width, span):
        intruder.append(*_intruder(bucket))
    now = recording.ended if recording.ended is not None else recording.now
    for column in range(width):
        at = (column + 0.5) / width * span
        if at > now:
            break
        if recording.stopped is None or at < recording.stopped:
            host.append("a", "cyan")
        elif recording.resumed is None or at < recording.resumed:
            host.append("▒", "yellow")
        else:
            host.append("b", "magenta")
    lanes = Table.grid(padding=(0, 1))
    lanes.add_row("guest's writes", guest)
    lanes.add_row("intruder's writes", intruder)
    lanes.add_row("guest is on host", host)
    legend = Text("█ accepted", "green")
    legend.append("   x guest refused", "red")
    legend.append("   · intruder refused", "dim")
    legend.append("   ! intruder accepted", "bold red")
    legend.append("   ▒ stands still", "yellow")
    return Group(Text(title, "bold"), lanes, legend, Text())


def table(acts: list[Act]) -> Table:
    """A table with both acts side by side."""
    grid = Table(box=None, pad_edge=False)
    grid.add_column("")
    for act in acts:
        grid.add_column(f"migrate-pr={'on' if act.migrate_pr else 'off'}", justify="right")

    def row(name: str, cells: list[tuple[str, str]]) -> None:
        grid.add_row(name, *(Text(text, style) for text, style in cells))

    row("guest's writes accepted", [(str(act.sums.guest_writes), "") for act in acts])
    row(
        "guest's writes refused",
        [
            (str(act.sums.guest_write_errors), "red" if act.sums.guest_write_errors else "green")
            for act in acts
        ],
    )
    row(
        "intruder's writes accepted",
        [
            (str(act.sums.intruder_writes_accepted), "red" if act.sums.intruder_writes_accepted else "green")
            for act in acts
        ],
    )
    row("intruder's writes refused", [(str(act.sums.intruder_writes_refused), "") for act in acts])
    row("blocks verified", [(str(act.sums.blocks_verified), "") for act in acts])
    row(
        "blocks damaged",
        [(str(act.sums.blocks_damaged), "red" if act.sums.blocks_damaged else "green") for act in acts],
    )
    row("holder before", [(_short(act.sums.holder_before), "") for act in acts])
    row("holder after", [(_short(act.sums.holder_after), "") for act in acts])
    row("guest stood still", [(f"{act.sums.standstill_ms:.1f} ms", "") for act in acts])
    return grid


def _short(holder: str | None) -> str:
    return "nobody" if holder is None else holder.split(",")[0].rpartition(":")[2]
