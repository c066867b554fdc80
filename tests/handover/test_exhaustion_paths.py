"""Every interleaving of a handover between hosts with several paths, which fail and come back at any step."""

from __future__ import annotations

import pytest

from tests.handover.explore import PATH_CASES, explore
from tests.handover.model import Model
from tests.handover.world import Bounds
from tests.rig.amounts import some


@pytest.mark.parametrize("name", PATH_CASES)
def test_one_path_fails_or_comes_back_at_any_step(name: str) -> None:
    found = explore(Model((PATH_CASES[name],), Bounds(0, flaps=1)))
    print(f"{name}: {found.states:,} distinct states")
    assert found.ends > 1


@pytest.mark.parametrize("name", some(["row A", "the source has two", "row C", "the destination has two"], 2))
def test_one_fault_while_one_path_fails_or_comes_back(name: str) -> None:
    found = explore(Model((PATH_CASES[name],), Bounds(1, flaps=1)))
    print(f"{name}: {found.states:,} distinct states")
    assert found.ends > 1
