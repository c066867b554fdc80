"""`make bench-host-disks`: how long a guest on disks of the host stands still, with each helper.

It runs in one user-mode kernel (package user-mode-linux), whose own target has the disks. So everything of
both hosts shares one processor. Four ways alternate in one run, by the letters of `bench.standstill`:

    a  QEMU 11.1, migrate-pr=off, qemu-pr-helper
    b  QEMU 11.1, migrate-pr=on, qemu-pr-helper
    c  the installed QEMU with Holdover's agents, by the helper front end
    d  the installed QEMU alone, qemu-pr-helper
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec
from rich.console import Console
from tests.rig.kernel import run_in_kernel

from bench.costs import Case, Run, cost_table, standstill_table
from bench.host_disks_inside import Figure, Plan, Way
from bench.machine import Machine, describe_machine, wide_console
from bench.qemu11 import Qemu11Error, qemu11
from holdover.demo.machines.image import ImageError, guest_image
from holdover.demo.machines.process import missing_qemu_packages

_SECONDS = 3600.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of one run."""

    machine: Machine
    cases: list[Case]


def ways(tell: Console) -> tuple[Way, ...]:
    """The ways that this machine has programs for."""
    found = []
    try:
        new = qemu11().started
    except Qemu11Error as error:
        tell.print(f"left out: a and b: {error}", markup=False)
    else:
        found += [
            Way(letter=Run.NEW_OFF.value, program=new, options=("migrate-pr=off",)),
            Way(letter=Run.NEW_ON.value, program=new, options=("migrate-pr=on",), carries=True),
        ]
    found += [Way(letter=Run.HOLDOVER.value, agents=True, carries=True), Way(letter=Run.ALONE.value)]
    return tuple(found)


def measure(plan: Plan) -> list[Figure]:
    """Boot a kernel and carry out the plan there.

    Raises:
        RuntimeError: A guest did not move, or not with its reservations.
    """
    with tempfile.TemporaryDirectory(prefix="holdover-bench-") as name:
        folder = Path(name)
        files = [str(folder / "plan.json"), str(folder / "figures.json")]
        Path(files[0]).write_bytes(msgspec.json.encode(plan))
        done = run_in_kernel(
            [sys.executable, "-m", "bench.host_disks_inside", *files],
            folder,
            nexuses=2,
            luns=len(plan.ways) * plan.luns,
            megabytes=8,
            memory="3072M",
            timeout=_SECONDS,
        )
        if done.status != 0:
            raise RuntimeError(f"the run in the kernel ended with {done.status}:\n{done.output}")
        return msgspec.json.decode(Path(files[1]).read_bytes(), type=list[Figure])


def case_of(luns: int, figures: list[Figure]) -> Case:
    """The figures by their letters, in the order of the rounds."""
    standstill: dict[str, list[float]] = {}
    handover: dict[str, list[float]] = {}
    for each in sorted(figures, key=lambda figure: figure.round):
        standstill.setdefault(each.letter, []).append(each.standstill)
        if each.handover:
            handover.setdefault(each.letter, []).append(each.handover)
    return Case(luns=luns, delay_ms=0, standstill_ms=standstill, handover_ms=handover)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--luns", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures into this file")
    options = parser.parse_args()
    console = wide_console()
    programs = {"linux.uml": "user-mode-linux", "qemu-pr-helper": "qemu-system-common"}
    missing = [package for program, package in programs.items() if shutil.which(program) is None]
    if missing := [*missing, *missing_qemu_packages()]:
        console.print(f"left out: everything: missing packages: {' '.join(missing)}")
        return
    try:
        image = guest_image()
    except ImageError as error:
        console.print(f"left out: everything: {error}", markup=False)
        return
    report = Report(machine=describe_machine(), cases=[])
    every = ways(console)
    for luns in options.luns:
        plan = Plan(
            ways=every,
            luns=luns,
            rounds=options.rounds,
            kernel=str(image.kernel),
            initrd=str(image.initrd),
        )
        report.cases.append(case_of(luns, measure(plan)))
        if options.json is not None:
            options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    console.print("Standstill: median (least…most).")
    console.print(standstill_table(report.cases))
    console.print("\nWhat the reservations add to it, ms: median (least…most) of the rounds' differences.")
    console.print(cost_table(report.cases))


if __name__ == "__main__":
    main()
