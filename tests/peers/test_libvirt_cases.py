"""Each thing that people do to a domain with libvirt, and what becomes of its reservation.

`docs/how-to/libvirt.md` has these cases as a table; a test compares both.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.hosts import until
from tests.rig.libvirt_machine import Machine, libvirt_site
from tests.rig.separate_site import GUEST

pytestmark = [pytest.mark.xdist_group("separate-hosts"), pytest.mark.long]

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "libvirt.md"
CASES: dict[str, Callable[[Machine], None]] = {}
"""What the table of the page says of each case, and the function that does it."""


def case(text: str) -> Callable[[Callable[[Machine], None]], Callable[[Machine], None]]:
    """Name a case as the table of the page does."""

    def keep(do: Callable[[Machine], None]) -> Callable[[Machine], None]:
        CASES[text] = do
        return do

    return keep


@case("`virsh save`, then `virsh restore` on the same host")
def save_and_restore(machine: Machine) -> None:
    here, libvirt = machine.here, machine.libvirt
    libvirt.define(here)
    libvirt.must(here, "save", GUEST, "/var/lib/libvirt/db1.saved")
    libvirt.must(here, "restore", "/var/lib/libvirt/db1.saved")


@case("`virsh managedsave`, then `virsh start` on the same host")
def managed_save(machine: Machine) -> None:
    libvirt = machine.libvirt
    libvirt.define(machine.here)
    libvirt.must(machine.here, "managedsave", GUEST)
    libvirt.must(machine.here, "start", GUEST)


@case("`virsh dump --live`, which pauses the guest and lets it go on")
def dump(machine: Machine) -> None:
    machine.libvirt.must(machine.here, "dump", GUEST, "/var/lib/libvirt/db1.core", "--memory-only")


@case("`virsh reset`, `virsh reboot`")
def reset_and_reboot(machine: Machine) -> None:
    for command in ("reset", "reboot"):
        machine.libvirt.must(machine.here, command, GUEST)


@case("`virsh destroy`, then `virsh start` on the same host")
def destroy_and_start(machine: Machine) -> None:
    machine.libvirt.define(machine.here)
    machine.libvirt.must(machine.here, "destroy", GUEST)
    machine.libvirt.must(machine.here, "start", GUEST)


@case("QEMU crashes, then `virsh start` on the same host")
def crash_and_start(machine: Machine) -> None:
    machine.libvirt.define(machine.here)
    machine.libvirt.kill_qemu(machine.here)
    until(lambda: machine.libvirt.state(machine.here) == "shut off", "libvirt has not seen the end")
    machine.libvirt.must(machine.here, "start", GUEST)


@case("libvirtd restarts; then `virsh migrate --live`")
def restart_libvirtd(machine: Machine) -> None:
    machine.libvirt.daemons[machine.here].send(signal.SIGTERM)
    machine.libvirt.start_daemon(machine.here)
    machine.is_at_home()
    machine.moves()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The domain on two hosts."""
    with libvirt_site(tmp_path_factory.mktemp("libvirt")) as made:
        yield made


@pytest.mark.parametrize("text", list(CASES))
def test_case(machine: Machine, text: str) -> None:
    machine.site.no_faults()
    machine.is_at_home()
    CASES[text](machine)
    machine.is_at_home()


def test_the_page_has_the_cases_of_these_tests() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Each case")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line[:2] == "| "]
    assert [each for each in cells if each not in ("case", "---")] == list(CASES)
