"""`make bench-helper`: PERSISTENT RESERVE IN through our helpers and through qemu-pr-helper, alternately.

It runs in one user-mode kernel (package user-mode-linux), with real disks on that kernel's own target. The
load is READ KEYS, from 1 client and from 32.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table
from tests.rig.kernel import run_in_kernel

from bench.helper_inside import GUEST, Plan, Row

PEER = "qemu-pr-helper"
_LUNS = 4
_DISKS = ["/dev/sda", "/dev/sdb", "/dev/sdc", "/dev/sdd"]
_CLIENTS = [1, 32]

_CONFIG = f"""
name = "bench"
initiator = "iqn.2026-11.org.example:bench"
[api]
listen = "unix:SOCKET.api"
[helper]
socket = "SOCKET"
[[guest]]
name = "{GUEST}"
machine = "pc-q35-7.2"
devices = [{", ".join(f'"scsi-block,id=d{n},drive={disk},migrate-pr=on"' for n, disk in enumerate(_DISKS))}]
"""


def helpers(trees: list[Path]) -> dict[str, list[str]]:
    """The commands of the helpers that are installed, by their names in the table."""
    ours = [sys.executable, "-m", "holdover"]
    found = {"pr-helper": [*ours, "pr-helper", "-q", "-k", "SOCKET"]}
    found["agent"] = [*ours, "agent", "--config", "CONFIG", "--ephemeral"]
    for tree in trees:
        other = ["env", f"PYTHONPATH={tree.absolute() / 'src'}"]
        for name in ("pr-helper", "agent"):
            found[f"{tree.name}-{name}"] = [*other, *found[name]]
    if shutil.which(PEER) is not None:
        found[PEER] = [PEER, "-k", "SOCKET"]
    return found


def measure(plan: Plan) -> list[Row]:
    """Boot a kernel and carry out the plan there."""
    with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name:
        folder = Path(name)
        (folder / "plan.json").write_bytes(msgspec.json.encode(plan))
        files = [str(folder / "plan.json"), str(folder / "rows.json")]
        command = [sys.executable, "-m", "bench.helper_inside", *files, "-name", GUEST]
        figures = len(plan.helpers) * len(plan.clients) * plan.rounds
        done = run_in_kernel(command, folder, nexuses=1, luns=_LUNS, timeout=240 + 3 * figures * plan.seconds)
        if done.status != 0:
            raise RuntimeError(f"the load ended with {done.status}:\n{done.output}")
        return msgspec.json.decode((folder / "rows.json").read_bytes(), type=list[Row])


def show(rows: list[Row]) -> Table:
    """A table of the medians over the rounds, with the median of the rounds' own ratios to the peer."""
    table = Table(box=None, pad_edge=False)
    for heading in ("CLIENTS", "HELPER", "P50 us", "RATIO", "P99 us", "RATIO", "COMMANDS/s", "RATIO", "LOAD"):
        table.add_column(heading, justify="left" if heading == "HELPER" else "right")
    by_load: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        by_load.setdefault((row.clients, row.helper), []).append(row)
    for (clients, helper), own in by_load.items():
        theirs = [] if helper == PEER else by_load.get((clients, PEER), [])
        cells = []
        for field, scale in (("p50", 1e6), ("p99", 1e6), ("per_second", 1.0)):
            figures, peers = _figures(own, field), _figures(theirs, field)
            cells.append(f"{statistics.median(figures) * scale:,.0f}")
            ratios = [ours / peer for ours, peer in zip(figures, peers, strict=False)]
            cells.append(f"{statistics.median(ratios):.2f}" if ratios else "-")
        share = statistics.median(_figures(own, "own_share"))
        table.add_row(str(clients), helper, *cells, f"{share:.0%}")
    return table


def _figures(rows: list[Row], field: str) -> list[float]:
    """One figure of each round, in the order of the rounds."""
    return [getattr(row, field) for row in sorted(rows, key=lambda row: row.round)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of load, for each figure")
    parser.add_argument(
        "--tree",
        type=Path,
        action="append",
        default=[],
        help="another work tree of Holdover, whose helpers are measured as well; may be repeated",
    )
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    console = Console()
    if shutil.which("linux.uml") is None:
        console.print("left out: everything: linux.uml is missing (package user-mode-linux)")
        return
    if shutil.which(PEER) is None:
        console.print(f"left out: {PEER} is missing (package qemu-system-common)")
    plan = Plan(
        helpers=helpers(options.tree),
        disks=_DISKS,
        clients=_CLIENTS,
        rounds=options.rounds,
        seconds=options.seconds,
        config=_CONFIG,
    )
    rows = measure(plan)
    console.print(show(rows))
    console.print("LOAD is the share of the time that the load itself was on the kernel's one CPU.")
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)))


if __name__ == "__main__":
    main()
