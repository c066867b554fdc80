"""`virsh migrate`, unchanged, and the cases of `test_libvirt_cases`, with modular daemons: virtqemud."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.test_libvirt_cases import CASES
from tests.rig.hosts import needs_separate_hosts
from tests.rig.libvirt_machine import EVENTS, Machine, libvirt_site
from tests.rig.modular_libvirt import modular_libvirt

pytestmark = [pytest.mark.xdist_group("separate-hosts"), pytest.mark.long]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The domain on two hosts."""
    needs_separate_hosts()
    with libvirt_site(tmp_path_factory.mktemp("libvirt"), modular=modular_libvirt(), ways=EVENTS) as made:
        yield made


def test_virsh_migrate_takes_the_reservation_there_and_back(machine: Machine) -> None:
    machine.rests()
    machine.moves()
    machine.moves()


@pytest.mark.parametrize("text", list(CASES))
def test_case(machine: Machine, text: str) -> None:
    machine.rests()
    CASES[text](machine)
    machine.is_at_home()
