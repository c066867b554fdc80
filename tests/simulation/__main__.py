"""Simulates whole agents with many seeds, on all cores: ``python -m tests.simulation --seeds 0-99999``."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
import warnings
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.simulation.simulation import Result, simulate

STEPS = 3
"""How many handovers each guest's operator begins."""

_AT_ONCE = 20
"""The seeds that a core simulates before it says how far it is."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Some seeds in a row: how many handovers they had, and the first that has shown a problem."""

    seeds: int
    handovers: int
    failed: Result | None


def _be_quiet() -> None:
    """An agent that was killed in a run leaves coroutines that never end: Python need not say so."""
    warnings.simplefilter("ignore", RuntimeWarning)
    sys.unraisablehook = lambda _: None


def _simulate_all(first: int, last: int, steps: int) -> _Batch:
    handovers = 0
    for seed in range(first, last + 1):
        result = simulate(seed, steps)
        handovers += result.handovers
        if result.problem:
            return _Batch(seed - first + 1, handovers, result)
    gc.collect()
    return _Batch(last - first + 1, handovers, None)


def replay_command(seed: int, steps: int) -> str:
    """The command that shows what happened with a seed."""
    return f"python -m tests.simulation --seeds {seed} --steps {steps} --transcript"


def main() -> int:
    """Simulate the seeds; 1 if one of them has shown a problem."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", default="0-999", help="one seed, or the first and the last: 0-99999")
    parser.add_argument("--steps", type=int, default=STEPS, help="how many handovers of each guest")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--transcript", action="store_true", help="show what happens; for one seed")
    options = parser.parse_args()
    first, _, last = options.seeds.partition("-")
    seeds = int(first), int(last or first)
    if options.transcript:
        return _show(seeds[0], options.steps)
    failed = _run(seeds, options.steps, options.cores)
    return 0 if failed is None else _show(failed.seed, options.steps)


def _show(seed: int, steps: int) -> int:
    _be_quiet()
    result = simulate(seed, steps, transcript=True)
    sys.stdout.write("\n".join(result.transcript) + "\n")
    if not result.problem:
        sys.stdout.write(f"seed {seed}: {result.handovers} handovers, and every promise was kept\n")
        return 0
    sys.stdout.write(f"seed {seed}: {result.problem}\nOnce more: {replay_command(seed, steps)}\n")
    return 1


def _batches(first: int, last: int) -> Iterator[tuple[int, int]]:
    for each in range(first, last + 1, _AT_ONCE):
        yield each, min(each + _AT_ONCE - 1, last)


def _run(seeds: tuple[int, int], steps: int, cores: int) -> Result | None:
    """The first result that shows a problem; None where there is none."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    began, handovers = time.monotonic(), 0
    simulated = _simulate_here(seeds, steps) if cores == 1 else _simulate_on(cores, seeds, steps)
    with closing(simulated), Progress(*columns) as progress:
        bar = progress.add_task("seeds", total=seeds[1] - seeds[0] + 1)
        for batch in simulated:
            if batch.failed is not None:
                return batch.failed
            handovers += batch.handovers
            progress.update(bar, advance=batch.seeds)
    seconds = (time.monotonic() - began) * cores
    sys.stdout.write(f"{handovers} handovers, {handovers / seconds:.0f} a second and core\n")
    return None


def _simulate_here(seeds: tuple[int, int], steps: int) -> Generator[_Batch, None, None]:
    """In this process, so that a profiler or a measurement of the coverage sees it."""
    _be_quiet()
    for first, last in _batches(*seeds):
        yield _simulate_all(first, last, steps)


def _simulate_on(cores: int, seeds: tuple[int, int], steps: int) -> Generator[_Batch, None, None]:
    pool = ProcessPoolExecutor(cores, initializer=_be_quiet)
    try:
        running: set[Future[_Batch]] = set()
        for first, last in _batches(*seeds):
            running.add(pool.submit(_simulate_all, first, last, steps))
            if len(running) < 2 * cores:
                continue
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from _in_order(done)
        yield from _in_order(running)
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(done: set[Future[_Batch]]) -> list[_Batch]:
    """The results, those with a problem first, and of these the one with the lowest seed."""
    batches = [each.result() for each in done]
    return sorted(batches, key=lambda each: each.failed.seed if each.failed else sys.maxsize)


if __name__ == "__main__":
    sys.exit(main())
