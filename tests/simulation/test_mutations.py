"""Bugs that are put in by hand: the simulation finds each, by the seed that docs/develop/testing.md names."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulation.__main__ import STEPS
from tests.simulation.mutations import MUTATIONS
from tests.simulation.simulation import simulate

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning"),
]

SEEDS = {
    "a record left out": 32,
    "an answer before its record": 182,
    "a gate opened early": 7,
    "a lost wake-up": 374,
    "an exception swallowed": 6,
    "a device of another guest touched": 26,
    "a closed handover reopened": 55,
    "a late message believed": 7315,
    "a timer not cancelled": 1,
    "adoption of an old picture": 117,
    "an APTPL of long ago": 11516,
    "a RESERVE that shuts nobody out": 4,
    "a session's end that frees nothing": 33,
    "a secret that others know": 58,
}


DOCUMENT = Path(__file__).parents[2] / "docs/develop/testing.md"


def test_the_document_has_the_seed_of_each_bug() -> None:
    rows = DOCUMENT.read_text("utf-8").splitlines()
    assert SEEDS.keys() == MUTATIONS.keys()
    assert [name for name, seed in SEEDS.items() if f"| {name} | {seed} |" not in rows] == []


@pytest.mark.parametrize("name", SEEDS)
def test_the_simulation_finds_a_bug_that_is_put_in(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = SEEDS[name]
    assert not simulate(seed, STEPS).problem
    MUTATIONS[name](monkeypatch)
    assert simulate(seed, STEPS).problem
