"""Every interleaving of a handover within bounds keeps the promises, and none of its safeguards is idle."""

from __future__ import annotations

import pytest

from tests.handover.explore import CASES, Broken, explore
from tests.handover.model import Model
from tests.handover.world import Bounds, Safeguards


def check(names: tuple[str, ...], bounds: Bounds) -> int:
    found = explore(Model(tuple(CASES[name] for name in names), bounds))
    print(
        f"{' + '.join(names)}, {bounds}: {found.states:,} distinct states, {found.transitions:,} transitions"
    )
    assert found.ends > 1
    return found.states


@pytest.mark.parametrize("name", CASES)
def test_one_lun_with_one_fault_a_third_and_a_change(name: str) -> None:
    check((name,), Bounds(1, 1, 1))


@pytest.mark.parametrize("name", CASES)
def test_one_lun_with_a_change_and_a_death(name: str) -> None:
    check((name,), Bounds(1, 0, 1, True))


@pytest.mark.parametrize("name", ["registrant", "holder, key shared", "holder beside a third"])
def test_one_lun_with_two_faults_and_a_third(name: str) -> None:
    check((name,), Bounds(2, 1, 0, True))


def test_one_lun_with_two_faults_and_a_change() -> None:
    check(("holder",), Bounds(2, 0, 1))


@pytest.mark.parametrize("name", ["holder", "holder, key shared"])
def test_one_lun_with_three_faults(name: str) -> None:
    check((name,), Bounds(3))


@pytest.mark.parametrize(
    "names", [("holder", "holder, key shared"), ("holder", "registrant"), ("one of all", "holder")]
)
def test_two_luns_with_one_fault(names: tuple[str, str]) -> None:
    check(names, Bounds(1))


@pytest.mark.parametrize(
    ("safeguards", "name", "bounds"),
    [
        (Safeguards(journal=False), "holder", Bounds(1)),
        (Safeguards(rekey=False), "holder, key shared", Bounds(0)),
        (Safeguards(ask=False), "holder", Bounds(1)),
        (Safeguards(gate=False), "holder", Bounds(0)),
    ],
    ids=["the journal write", "the re-key", "the ask after a lost answer", "the gate"],
)
def test_without_a_safeguard_a_promise_is_broken(safeguards: Safeguards, name: str, bounds: Bounds) -> None:
    model = Model((CASES[name],), bounds)
    explore(model)
    with pytest.raises(Broken):
        explore(Model((CASES[name],), bounds, safeguards))
