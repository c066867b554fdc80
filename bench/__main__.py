"""`make bench`: all benchmarks, one after another; each prints its tables and names what is missing.

    python -m bench [--out FOLDER] [--quick] [NAME ...]

The figures go into FOLDER as JSON, the plot as standstill.svg. FOLDER is build/bench by default.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.machine import wide_console


@dataclass(frozen=True, slots=True)
class _Bench:
    """One module of this folder; with the options ``quick`` it takes a minute or two."""

    name: str
    quick: tuple[str, ...]
    draws: bool = False


_BENCHES = (
    _Bench("target", ("--rounds", "1", "--seconds", "1")),
    _Bench("gateway", ("--rounds", "1", "--seconds", "1")),
    _Bench("helper", ("--rounds", "1", "--seconds", "1")),
    _Bench("host_disks", ("--rounds", "1", "--luns", "1")),
    _Bench("upgrade", ("--rounds", "2")),
    _Bench("libvirt", ("--rounds", "2")),
    _Bench("scale", ("--guests", "10", "100")),
    _Bench("standstill", ("--rounds", "2", "--luns", "1", "16", "64"), draws=True),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(each.name for each in _BENCHES))
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    parser.add_argument("--quick", action="store_true", help="few rounds: to see that it works")
    options = parser.parse_args()
    unknown = set(options.names) - {each.name for each in _BENCHES}
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    options.out.mkdir(parents=True, exist_ok=True)
    console = wide_console()
    failed = []
    for each in _BENCHES:
        if options.names and each.name not in options.names:
            continue
        command = [
            sys.executable,
            "-m",
            f"bench.{each.name}",
            "--json",
            str(options.out / f"{each.name}.json"),
        ]
        if each.draws:
            command += ["--svg", str(options.out / f"{each.name}.svg")]
        console.rule(f"bench.{each.name}")
        began = time.monotonic()
        if subprocess.run([*command, *(each.quick if options.quick else ())], check=False).returncode != 0:
            failed.append(each.name)
        console.print(f"({time.monotonic() - began:.0f} s)\n", highlight=False)
    console.print(f"Figures are in {options.out}.", highlight=False)
    if failed:
        console.print(f"Failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
