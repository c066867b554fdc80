"""SIGKILL of a process that writes a journal: what it acknowledged is there, and nothing is there by half."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pytest

from holdover.journal.journal import Journal
from holdover.journal.records import JournalContents
from tests.journal.support import run
from tests.journal.writer import STREAMS

KILLS = 200
ROUNDS_OF_A_FILE = 10
"""Rounds after which there is a new file, so that some kills come while it is created."""


@pytest.fixture
def server() -> Iterator[tuple[IO[str], IO[str]]]:
    """Where lines are written to `tests.journal.writer`, and where it answers."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.journal.writer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdin, process.stdout
        process.stdin.close()


def killed(server: tuple[IO[str], IO[str]], file: Path, name: str, after: float) -> list[int]:
    """The last number that each stream of a round acknowledged before it was killed, 0 for none."""
    asked, told = server
    asked.write(f"{file} {name}\n")
    acknowledged = [0] * STREAMS
    lines = iter(told)
    for line in lines:
        if line.startswith("pid"):
            time.sleep(after)
            os.kill(int(line.split()[1]), signal.SIGKILL)
        elif line == "ended\n":
            return acknowledged
        else:
            stream, number = map(int, line.split())
            acknowledged[stream] = number
    raise AssertionError("the writer's parent has ended")


def check_round(contents: JournalContents, journal: Journal, name: str, acknowledged: list[int]) -> None:
    """Each stream is where it was acknowledged or one further, in all its records alike."""
    for stream, least in enumerate(acknowledged):
        key = f"{name}-{stream}"
        states = [int(state.state) for state in journal.steps(key)]
        last = len(states)
        assert states == list(range(1, last + 1))
        assert least <= last <= least + 1
        devices = [device for device in contents.devices if device.guest == key]
        guests = [guest for guest in contents.guests if guest.name == key]
        if not devices and not guests:
            # The one in flight began with forgetting, in a transaction of its own.
            assert last == least
            continue
        assert [guest.uuid for guest in guests] == [str(last)]
        assert [device.body for device in devices] == [journal.steps(key)[-1].body]


async def look(file: Path, name: str, acknowledged: list[int]) -> None:
    journal = Journal.open(file)
    check_round(journal.load(), journal, name, acknowledged)
    await journal.close()


def test_what_was_acknowledged_before_a_kill_is_there(
    server: tuple[IO[str], IO[str]], tmp_path: Path
) -> None:
    chance = random.Random(5)
    number = total = 0
    # Where the machine is busy, a kill often comes before anything is acknowledged: then there are more.
    while number < KILLS or total <= KILLS:
        file = tmp_path / f"journal{number // ROUNDS_OF_A_FILE}"
        after = chance.uniform(0, 0.015 if chance.random() < 0.3 else 0.1)
        acknowledged = killed(server, file, f"r{number}", after)
        total += sum(acknowledged)
        run(partial(look, file, f"r{number}", acknowledged))
        number += 1
