"""Which branches of the rooms that decide and drive a handover the simulation reaches.

``python -m tests.simulation.reached --seeds 0-999``; it needs SlipCover (``pip install slipcover``).

`coverage` follows calls and returns. In Python 3.11 nothing tells it that an error is thrown into a
generator, so it misses what the callers do then. SlipCover writes its marks into the code.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

ROOMS = ("src/holdover/agent/guests", "src/holdover/agent/handover", "src/holdover/handover")


class _File(msgspec.Struct):
    """What is known of one file: lines, and branches as pairs of lines; 0 is the end of the function."""

    executed_lines: list[int]
    missing_lines: list[int]
    executed_branches: list[tuple[int, int]]
    missing_branches: list[tuple[int, int]]


class _Report(msgspec.Struct):
    files: dict[str, _File]


def measured(seeds: str) -> dict[str, _File]:
    """What a simulation of these seeds reaches, by file.

    Raises:
        SystemExit: The simulation has shown a problem.
    """
    with TemporaryDirectory() as folder:
        out = Path(folder, "reached.json")
        simulation = ("-m", "tests.simulation", "--seeds", seeds, "--cores", "1")
        slipcover = ("-m", "slipcover", "--branch", "--json", "--out", str(out), "--source", ",".join(ROOMS))
        if subprocess.run([sys.executable, *slipcover, *simulation], check=False).returncode:
            raise SystemExit(1)
        return msgspec.json.decode(out.read_bytes(), type=_Report).files


def _rows(files: dict[str, _File]) -> Iterator[str]:
    """The table of docs/develop/testing.md."""
    for room in ROOMS:
        inside = [file for name, file in files.items() if name.startswith(f"{room}/")]
        lines = _share(
            sum(len(each.executed_lines) for each in inside), sum(len(each.missing_lines) for each in inside)
        )
        branches = _share(
            sum(len(each.executed_branches) for each in inside),
            sum(len(each.missing_branches) for each in inside),
        )
        yield f"| `{room.removeprefix('src/holdover/')}` | {lines} | {branches} |"


def _share(reached: int, missing: int) -> str:
    """The part that was reached, rounded down."""
    return f"{1000 * reached // (reached + missing) / 10} %"


def main() -> None:
    """Simulate, and show what is reached and what is not."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.reached", description=__doc__)
    parser.add_argument("--seeds", default="0-999", help="the first and the last seed: 0-999")
    files = measured(parser.parse_args().seeds)
    for name, file in sorted(files.items()):
        for line, to in file.missing_branches:
            sys.stdout.write(f"{name}:{line}: never goes to {to or 'the end'}\n")
    sys.stdout.write("\n".join(_rows(files)) + "\n")


if __name__ == "__main__":
    main()
