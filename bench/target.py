"""`make bench-target`: the embedded LUN's target beside tgt, under one load, alternately.

Reads are `iscsi-perf`'s (package libiscsi-bin), writes `qemu-img bench`'s (qemu-utils, qemu-block-extra):
C programs of others, so that the load costs both servers the same.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.servers import SERVERS, Server, serve

_SIZE = 256 << 20
_SCATTER = 61 << 20
"""Step between writes of 4 KiB, bytes: far apart, and every block is met before one comes again."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load; ``blocks`` of 512 bytes in each command, ``depth`` commands in flight."""

    name: str
    write: bool
    blocks: int
    depth: int

    @property
    def program(self) -> tuple[str, str]:
        """The program that makes it, and its Debian package."""
        return ("qemu-img", "qemu-utils") if self.write else ("iscsi-perf", "libiscsi-bin")


LOADS = (
    Load("random read 4 KiB, 1 in flight", False, 8, 1),
    Load("random read 4 KiB, 32 in flight", False, 8, 32),
    Load("sequential read 256 KiB, 16 in flight", False, 512, 16),
    Load("scattered write 4 KiB, 1 in flight", True, 8, 1),
    Load("scattered write 4 KiB, 32 in flight", True, 8, 32),
    Load("sequential write 256 KiB, 16 in flight", True, 512, 16),
)


@dataclass(frozen=True, slots=True)
class Row:
    """Commands per second under one load: a figure for each round, by server."""

    load: str
    commands_per_second: dict[str, list[float]]

    def median(self, server: str) -> float:
        return statistics.median(self.commands_per_second[server])

    def ratio(self) -> float | None:
        """Median over the rounds of ours divided by the peer's; None without a peer."""
        pairs = list(zip(*(self.commands_per_second.get(each.name, []) for each in SERVERS), strict=False))
        return statistics.median(ours / theirs for ours, theirs in pairs) if pairs else None


def _read(url: str, load: Load, seconds: float) -> float:
    random = ["-r"] if load.blocks == 8 else []
    command = [
        "iscsi-perf",
        "-t",
        str(max(1, round(seconds))),
        *random,
        "-b",
        str(load.blocks),
        "-m",
        str(load.depth),
    ]
    output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"iops average (\d+)", output)
    if not found:
        raise RuntimeError(f"iscsi-perf told no figure:\n{output}")
    return float(found[-1])


def _write(url: str, load: Load, seconds: float) -> float:
    size = load.blocks * 512
    step = ["-S", str(_SCATTER + size)] if load.blocks == 8 else []

    def run(count: int) -> float:
        command = [
            "qemu-img",
            "bench",
            "-w",
            "-f",
            "raw",
            "-t",
            "none",
            "-c",
            str(count),
            "-d",
            str(load.depth),
        ]
        output = subprocess.run(
            [*command, "-s", str(size), *step, url], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"Run completed in ([\d.]+) seconds", output)
        if found is None:
            raise RuntimeError(f"qemu-img bench told no figure:\n{output}")
        return count / max(float(found[1]), 0.001)

    # a count that takes about as long as asked for, from a first short run
    return run(max(200, round(run(200) * seconds)))


def measure(rounds: int, seconds: float, tell: Callable[[str], None]) -> list[Row]:
    """All loads on all servers that are installed, ``rounds`` times, alternately."""
    present = [server for server in SERVERS if not server.missing]
    rows = []
    with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name:
        file = Path(name) / "disk"
        file.write_bytes(bytes(range(256)) * (_SIZE // 256))
        for load in LOADS:
            program, package = load.program
            if shutil.which(program) is None:
                tell(f"left out: {load.name}: {program} is missing (package {package})")
                continue
            figures: dict[str, list[float]] = {server.name: [] for server in present}
            for number in range(rounds):
                # who goes first changes, so that a drift of the machine hits both
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
        return (_write if load.write else _read)(url, load, seconds)


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
