"""`make bench-target`: the embedded LUN's target and tgt, under one load, alternately."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.load import Load, carry_out, make_disk, possible
from bench.servers import SERVERS, Server, serve


@dataclass(frozen=True, slots=True)
class Row:
    """Commands per second under one load: for each server, one figure for each round."""

    load: str
    commands_per_second: dict[str, list[float]]

    def median(self, server: str) -> float:
        return statistics.median(self.commands_per_second[server])

    def ratio(self) -> float | None:
        """The median over the rounds of our figure divided by the peer's; None without a peer."""
        pairs = list(zip(*(self.commands_per_second.get(each.name, []) for each in SERVERS), strict=False))
        return statistics.median(ours / theirs for ours, theirs in pairs) if pairs else None


def measure(rounds: int, seconds: float, tell: Callable[[str], None]) -> list[Row]:
    """Measure all loads on all servers that are installed, ``rounds`` times, alternately."""
    present = [server for server in SERVERS if not server.missing]
    rows = []
    with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name:
        file = Path(name) / "disk"
        make_disk(file)
        for load in possible(tell):
            figures: dict[str, list[float]] = {server.name: [] for server in present}
            for number in range(rounds):
                # The order changes from round to round, so that a drift of the machine affects both.
                for server in present if number % 2 == 0 else reversed(present):
                    figures[server.name].append(_one(server, file, load, seconds))
            rows.append(Row(load.name, figures))
            tell(
                load.name
                + ": "
                + ", ".join(f"{server} {rows[-1].median(server):.0f}/s" for server in figures)
            )
    return rows


def _one(server: Server, file: Path, load: Load, seconds: float) -> float:
    with serve(server, file) as url:
        return carry_out(url, load, seconds).per_second


def show(rows: list[Row]) -> Table:
    """The table of ratios."""
    table = Table(box=None, pad_edge=False)
    table.add_column("LOAD")
    present = [server.name for server in SERVERS if not server.missing]
    for server in present:
        table.add_column(f"{server} /s", justify="right")
    table.add_column("RATIO", justify="right")
    for row in rows:
        ratio = row.ratio() if len(present) > 1 else None
        cells = [f"{row.median(server):,.0f}" for server in present]
        table.add_row(row.load, *cells, "-" if ratio is None else f"{ratio:.2f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of load, for each figure")
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    console = Console()
    for server in SERVERS:
        if server.missing:
            console.print(f"left out: {server.name} is missing (package {server.package})")
    rows = measure(options.rounds, options.seconds, lambda text: console.print(text, highlight=False))
    console.print(show(rows))
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
