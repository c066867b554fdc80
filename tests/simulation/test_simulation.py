"""A fixed number of seeds, in each of which every promise is kept; `make simulate` runs as many as wanted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.rig.amounts import amount
from tests.simulation.__main__ import STEPS, replay_command
from tests.simulation.simulation import simulate

# an agent that was killed in a run leaves coroutines that never end
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

_SEEDS = range(0, amount(200, 20_000))
_AT_ONCE = 20


@pytest.mark.parametrize("first", _SEEDS[::_AT_ONCE])
def test_every_promise_is_kept(first: int) -> None:
    for seed in range(first, first + _AT_ONCE):
        result = simulate(seed, STEPS)
        assert not result.problem, f"{result.problem}; see: {replay_command(seed, STEPS)}"


FOUND = {
    2070: "a take has turned off an APTPL that another guest had asked for meanwhile",
    338: "a destination that took, and lost its power, has taken an eviction by the source for a fence",
    6520: "an agent has taken the one path that was there for the nexus of a device with several paths",
    620: "a device whose LUN did not answer has forgotten that its guest has departed",
    179: "a late message has begun the end of a handover anew, and its source was asked no more",
    39: "a RESERVE counted for nothing, because its guest had just been fenced",
    206: "an agent without memory for a record has never put it on record",
    445: "an agent without memory for a record has not put the gates of its devices on record",
}
"""Seeds that have shown a bug which is mended."""


@pytest.mark.parametrize("seed", FOUND)
def test_a_seed_that_has_shown_a_bug_shows_none(seed: int) -> None:
    assert not simulate(seed, STEPS).problem


def test_seeds_have_handovers_that_end_and_handovers_that_are_rolled_back() -> None:
    lines = [line for seed in range(10) for line in simulate(seed, STEPS, transcript=True).transcript]
    assert any("has ended: the guest has moved" in line for line in lines)
    assert any("has ended: the guest has stayed" in line for line in lines)
    assert any("THE AGENT DIES" in line for line in lines)


def transcript_of(*seeds: int) -> str:
    return "\n".join(line for seed in seeds for line in simulate(seed, STEPS, transcript=True).transcript)


def test_a_seed_gives_the_same_transcript_each_time() -> None:
    here = transcript_of(1, 2, 3)
    assert here == transcript_of(1, 2, 3)
    program = "from tests.simulation.test_simulation import transcript_of; print(transcript_of(1, 2, 3))"
    for hash_seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": hash_seed},
        )
        assert said.stdout == f"{here}\n"


def test_a_transcript_changes_nothing() -> None:
    for seed in range(10):
        silent, told = simulate(seed, STEPS), simulate(seed, STEPS, transcript=True)
        assert (silent.handovers, silent.problem) == (told.handovers, told.problem)
        assert not silent.transcript
        assert told.transcript
