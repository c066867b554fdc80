"""Every interleaving of a handover within bounds keeps the promises, and none of its safeguards is idle."""

from __future__ import annotations

import pytest

from holdover.handover.effects import EffectKind
from holdover.handover.lun_work.work import Work
from tests.handover.explore import CASES, Broken, explore
from tests.handover.model import Model
from tests.handover.world import Bounds, Safeguards
from tests.rig.amounts import is_whole, some


def check(names: tuple[str, ...], bounds: Bounds) -> int:
    found = explore(Model(tuple(CASES[name] for name in names), bounds))
    print(
        f"{' + '.join(names)}, {bounds}: {found.states:,} distinct states, {found.transitions:,} transitions"
    )
    assert found.ends > 1
    return found.states


_LONG = pytest.mark.long
"""For the large set-ups whose features others have, too."""


_BRIEF = ("sole writer", "one of all, key shared")
"""Cases that together have the types, a key that is shared, and a third."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _BRIEF else _LONG) for name in CASES]
)
def test_one_lun_with_one_fault_a_third_and_a_change(name: str) -> None:
    check((name,), Bounds(1, 1, 1))


@pytest.mark.parametrize("name", some(CASES, 3))
def test_one_lun_with_a_change_and_a_death(name: str) -> None:
    check((name,), Bounds(1, 0, 1, True))


@_LONG
@pytest.mark.parametrize("name", ["registrant", "holder, key shared", "holder beside a third"])
def test_one_lun_with_two_faults_and_a_third(name: str) -> None:
    check((name,), Bounds(2, 1, 0, True))


@_LONG
def test_a_guest_that_is_not_registered_with_two_faults_a_change_and_a_death() -> None:
    check(("not registered",), Bounds(2, 0, 1, True, arms=False))


@pytest.mark.parametrize("name", CASES)
def test_one_lun_beside_an_older_agent(name: str) -> None:
    check((name,), Bounds(1, arms=False))


@_LONG
def test_one_lun_with_two_faults_and_a_change() -> None:
    check(("holder",), Bounds(2, 0, 1))


@_LONG
@pytest.mark.parametrize("name", ["holder", "holder, key shared"])
def test_one_lun_with_three_faults(name: str) -> None:
    check((name,), Bounds(3))


@pytest.mark.parametrize(
    "names", [("holder", "holder, key shared"), ("holder", "registrant"), ("one of all", "holder")]
)
def test_two_luns_with_one_fault(names: tuple[str, str]) -> None:
    check(names, Bounds(1))


_ALL = frozenset(EffectKind)

WITHOUT = {
    "records before messages": (Safeguards(waits=_ALL - {EffectKind.MESSAGE}), "holder", Bounds(1)),
    "records before answers": (Safeguards(waits=_ALL - {EffectKind.ANSWER}), "holder", Bounds(1)),
    "records before work": (
        Safeguards(waits=_ALL - {EffectKind.WORK}),
        "holder, key shared",
        Bounds(1, arms=False),
    ),
    "the record that announces PREEMPT": (
        Safeguards(announced=frozenset(Work) - {Work.PREEMPT}),
        "holder",
        Bounds(2, dies=True, arms=False),
    ),
    "the question whether the commit was done": (Safeguards(wonders=False), "holder", Bounds(1)),
    "the question of a restarted source": (Safeguards(probes=False), "holder", Bounds(1, dies=True)),
    "the doubt of a restarted destination": (Safeguards(is_unsure=False), "holder", Bounds(2)),
    "giving up rechecks in time": (Safeguards(in_time=False), "holder", Bounds(1, changes=2, arms=False)),
    "news after a restart": (Safeguards(restart_news=False), "holder", Bounds(1, changes=1)),
    "adoption of nothing old": (Safeguards(adoption=False), "holder", Bounds(0, changes=1)),
    "the re-key": (Safeguards(rekey=False), "holder, key shared", Bounds(0)),
    "the ask after a lost answer": (Safeguards(ask=False), "holder", Bounds(1)),
    "a gate that waits for the record": (
        Safeguards(waits=_ALL - {EffectKind.GATE}),
        "holder",
        Bounds(1, changes=1),
    ),
    "message numbers that were not used": (Safeguards(skips=False), "holder", Bounds(1, changes=1)),
    "the gate": (Safeguards(gate=False), "holder", Bounds(0)),
} | {
    f"what the guest did there, {name}": (Safeguards(picture=False), name, Bounds(0, changes=1))
    for name in ("holder", "registrant", "not registered", "a third holds")
}
"""Safeguards that are taken away, each with a case and bounds in which that breaks a promise."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=_LONG if name == "the record that announces PREEMPT" else ())
        for name in WITHOUT
    ],
)
def test_without_a_safeguard_a_promise_is_broken(name: str) -> None:
    safeguards, case, bounds = WITHOUT[name]
    if is_whole():
        explore(Model((CASES[case],), bounds))  # it is the safeguard that makes the difference
    with pytest.raises(Broken):
        explore(Model((CASES[case],), bounds, safeguards))
