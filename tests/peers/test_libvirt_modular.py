"""`virsh migrate`, unchanged, and the cases of `test_libvirt_cases`, with modular daemons: virtqemud.

They are those of this machine's libvirt, and those of libvirt 11 in a root of Debian 13 with its QEMU 10.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.peers.test_libvirt_cases import CASES
from tests.rig.debian_root import newer_libvirt_root
from tests.rig.hosts import needs_separate_hosts
from tests.rig.libvirt_machine import EVENTS, Machine, libvirt_site
from tests.rig.modular_libvirt import modular_libvirt

pytestmark = [pytest.mark.xdist_group("separate-hosts"), pytest.mark.long]


@pytest.fixture(scope="module", params=["this", "newer"])
def machine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The domain on two hosts."""
    needs_separate_hosts()
    root = newer_libvirt_root() if request.param == "newer" else None
    folder, modular = tmp_path_factory.mktemp("libvirt"), modular_libvirt(root)
    with libvirt_site(folder, root, modular=modular, ways=EVENTS) as made:
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
