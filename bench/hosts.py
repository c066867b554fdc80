"""`python -m bench.hosts`: how long a commit takes between two separate hosts, with the agents' mutual TLS.

The hosts and the SAN share a network and nothing else (`tests/rig`). The guest holds a reservation on each of
its LUNs and goes to and fro. The figure is the agent's own time from the request to commit to its answer. The
rig needs root.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import msgspec
from rich.table import Table
from tests.rig.separate_site import separate_site

from bench.figures import Spread
from bench.machine import Machine, describe_machine, wide_console

_HOSTS = ("host-a", "host-b")
_KEY = "0xabc"


class Commits(msgspec.Struct, frozen=True, kw_only=True):
    """The milliseconds of each commit, for one number of LUNs, with or without ``early-commit``."""

    luns: int
    early: bool
    milliseconds: list[float]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that was measured."""

    machine: Machine
    commits: list[Commits]


def measure(luns: int, rounds: int, *, early: bool) -> Commits:
    """Commit ``rounds`` times between two hosts; the first two times, which warm up, are left out."""
    found = []
    with (
        tempfile.TemporaryDirectory(prefix="hb-") as folder,
        separate_site(Path(folder), *_HOSTS, luns=luns) as site,
    ):
        site.begin(settings=f"early-commit = {str(early).lower()}\n")
        for lun in range(luns):
            site.guest("host-a", "register", "--new-key", _KEY, "--aptpl", lun=lun)
            site.guest("host-a", "reserve", "--key", _KEY, "--type", "5", lun=lun)
        for number in range(rounds + 2):
            source, destination = _HOSTS if number % 2 == 0 else reversed(_HOSTS)
            site.handover(source, "prepare", "--to", destination)
            found.append(float(site.handover(source, "commit")["milliseconds"]))
            site.handover(source, "finish")
    return Commits(luns=luns, early=early, milliseconds=found[2:])


def show(commits: list[Commits]) -> Table:
    """The table of the medians."""
    table = Table(box=None, pad_edge=False)
    for heading in ("LUNS", "EARLY COMMIT", "COMMITS", "MEDIAN ms (LEAST…MOST)"):
        table.add_column(heading, justify="right")
    for each in commits:
        spread = Spread.of(each.milliseconds)
        figures = f"{spread.median:.1f} ({spread.low:.1f}…{spread.high:.1f})"
        table.add_row(str(each.luns), "on" if each.early else "off", str(spread.count), figures)
    return table


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(prog="python -m bench.hosts", description=__doc__)
    parser.add_argument("--luns", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    report = Report(machine=describe_machine(), commits=[])
    for luns in options.luns:
        for early in (False, True):
            report.commits.append(measure(luns, options.rounds, early=early))
            if options.json is not None:
                options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    wide_console().print(show(report.commits))


if __name__ == "__main__":
    main()
