"""`virsh migrate`, unchanged: two libvirtds on separate hosts, whose lock manager is the agent there.

The domain has its disk by QEMU's real `scsi-block`. All tests share one site; each finds the guest running on
one host with its reservation, and leaves it so.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from holdover.demo.machines.image import guest_image, missing_packages
from tests.rig.guest_commands import (
    WRITE_ON,
    counts_of,
    register,
    release,
    reserve,
    unregister,
    wrote_without_error,
)
from tests.rig.hosts import until
from tests.rig.intruder import intruder, is_refused
from tests.rig.libvirt_machine import EVENTS, KEY, QUESTIONS, SLOW_COMMIT, Machine, libvirt_site
from tests.rig.packages import needs
from tests.rig.separate_libvirt import AGENT_LOCK_SOCKET, CONSOLE
from tests.rig.separate_site import GUEST
from tests.rig.serial_line import output_of

pytestmark = pytest.mark.xdist_group("separate-hosts")


@pytest.fixture(scope="module", params=[EVENTS, pytest.param(QUESTIONS, marks=pytest.mark.long)])
def machine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The domain on two hosts, whose agents hear libvirt's events or do not."""
    with libvirt_site(tmp_path_factory.mktemp("libvirt"), ways=request.param) as made:
        yield made


@pytest.fixture
def at_home(machine: Machine) -> Machine:
    """The domain at rest on one host."""
    machine.rests()
    return machine


def test_virsh_migrate_takes_the_reservation_there_and_back(at_home: Machine) -> None:
    at_home.moves()
    at_home.moves()


@pytest.mark.parametrize("machine", [EVENTS], indirect=True)
def test_the_source_commits_at_pre_switchover_before_the_destination_asks(at_home: Machine) -> None:
    for _ in range(2):
        commits = at_home.says(at_home.here, "commit the handover, of which this host is the source")
        at_home.moves()
        assert commits(), "no event has led to the commit"


def test_a_destination_that_dies_before_the_guest_runs_there_gives_it_back(at_home: Machine) -> None:
    commits = at_home.says(at_home.there, "ask the source to commit")
    at_home.site.fault(SLOW_COMMIT)
    moving = at_home.migrate()
    until(commits, "libvirt does not ask")
    at_home.libvirt.kill_qemu(at_home.there)
    assert moving.result().returncode != 0
    at_home.is_at_home()
    at_home.moves()


@pytest.mark.long
def test_virsh_resume_on_the_source_is_refused_while_the_guest_runs_on_the_destination(
    at_home: Machine,
) -> None:
    here, there = at_home.here, at_home.there
    commits = at_home.says(there, "ask the source to commit")
    at_home.site.fault(SLOW_COMMIT)
    moving = at_home.migrate()
    until(commits, "libvirt does not ask")
    # virsh drives the migration: without the source's libvirtd nobody ends the guest there
    at_home.libvirt.daemons[here].send(signal.SIGKILL)
    moving.result()
    until(lambda: at_home.libvirt.state(there) == "running", "the guest does not run on the destination")
    at_home.libvirt.start_daemon(here)
    assert at_home.libvirt.state(here) == "paused"
    refused = at_home.libvirt.virsh(here, "resume", GUEST)
    assert refused.returncode != 0
    assert f"guest {GUEST} runs on {there}" in refused.stderr
    at_home.libvirt.must(here, "destroy", GUEST)
    at_home.here, at_home.there = there, here
    at_home.is_at_home()


@pytest.mark.long
def test_a_destination_whose_libvirtd_dies_while_it_asks_gives_it_back(at_home: Machine) -> None:
    commits = at_home.says(at_home.there, "ask the source to commit")
    at_home.site.fault(SLOW_COMMIT)
    moving = at_home.migrate()
    until(commits, "libvirt does not ask")
    at_home.libvirt.daemons[at_home.there].send(signal.SIGKILL)
    moving.result()
    at_home.is_at_home()
    at_home.libvirt.start_daemon(at_home.there)
    until(lambda: not at_home.libvirt.qemu_of(at_home.there), "the destination's QEMU is not ended")
    # libvirtd refuses a domain of this name as long as it removes the old one
    until(
        lambda: at_home.libvirt.state(at_home.there) == "none", "the destination's libvirtd keeps the domain"
    )
    at_home.moves()


@pytest.mark.long
def test_a_guest_that_is_off_starts_on_the_other_host_with_its_reservation(at_home: Machine) -> None:
    at_home.libvirt.must(at_home.here, "destroy", GUEST)
    at_home.libvirt.define(at_home.there)
    at_home.libvirt.must(at_home.there, "start", GUEST)
    at_home.here, at_home.there = at_home.there, at_home.here
    at_home.is_at_home()
    at_home.libvirt.virsh(at_home.there, "undefine", GUEST)


@pytest.mark.long
def test_a_guest_does_not_start_on_two_hosts(at_home: Machine) -> None:
    at_home.libvirt.define(at_home.there)
    refused = at_home.libvirt.virsh(at_home.there, "start", GUEST)
    assert refused.returncode != 0
    assert f"guest {GUEST} runs on {at_home.here}" in refused.stderr
    at_home.is_at_home()
    at_home.libvirt.must(at_home.there, "undefine", GUEST)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        ("--p2p",),
        ("--p2p", "--tunnelled"),
        ("--persistent", "--undefinesource"),
        ("--postcopy", "--postcopy-after-precopy"),
    ],
    ids=" ".join,
)
def test_each_way_to_migrate_takes_the_reservation_along(at_home: Machine, options: tuple[str, ...]) -> None:
    at_home.moves(*options)
    at_home.moves(*options)


@pytest.mark.long
def test_a_guest_that_arrives_suspended_has_its_reservation_when_it_is_resumed(at_home: Machine) -> None:
    done = at_home.libvirt.migrate(at_home.here, at_home.there, "--suspend")
    assert done.returncode == 0, done.stderr
    assert at_home.libvirt.state(at_home.there) == "paused"
    at_home.libvirt.must(at_home.there, "resume", GUEST)
    at_home.here, at_home.there = at_home.there, at_home.here
    at_home.is_at_home()


@pytest.mark.long
def test_what_happens_on_one_host_is_always_allowed(at_home: Machine) -> None:
    here = at_home.here
    at_home.libvirt.define(here)  # a domain that has come by a migration is transient, and cannot be saved
    for command in (["suspend"], ["resume"], ["reset"], ["reboot"], ["managedsave"], ["start"]):
        at_home.libvirt.must(here, command[0], GUEST)
    at_home.is_at_home()
    at_home.libvirt.daemons[here].send(signal.SIGKILL)
    at_home.libvirt.start_daemon(here)
    at_home.is_at_home()
    at_home.moves()


@pytest.mark.long
def test_without_an_agent_on_the_destination_the_guest_is_not_disturbed(at_home: Machine) -> None:
    at_home.site.agents[at_home.there].kill()
    assert at_home.libvirt.migrate(at_home.here, at_home.there).returncode != 0
    at_home.is_at_home()
    at_home.site.start_agent(at_home.there)
    until(lambda: at_home.site[at_home.there].listens(AGENT_LOCK_SOCKET), "the agent does not answer")
    at_home.moves()


@pytest.mark.long
def test_without_the_agent_other_guests_start_and_this_one_waits(at_home: Machine) -> None:
    here, libvirt = at_home.here, at_home.libvirt
    libvirt.define_plain(here, "web")
    libvirt.must(here, "suspend", GUEST)
    at_home.site.agents[here].kill()
    libvirt.must(here, "start", "web")
    for command in ("suspend", "resume", "reset", "destroy"):
        libvirt.must(here, command, "web")
    refused = libvirt.virsh(here, "resume", GUEST)
    assert refused.returncode != 0
    assert f"guest {GUEST} may have a reservation" in refused.stderr
    assert "systemctl status holdover-agent" in refused.stderr
    at_home.site.start_agent(here)
    libvirt.must(here, "resume", GUEST)
    at_home.is_at_home()
    libvirt.must(here, "undefine", "web")


@pytest.mark.long
def test_a_lock_server_that_dies_and_comes_back_changes_nothing(at_home: Machine) -> None:
    here, libvirt = at_home.here, at_home.libvirt
    libvirt.lock_servers[here].send(signal.SIGKILL)
    libvirt.must(here, "suspend", GUEST)
    assert libvirt.virsh(here, "resume", GUEST).returncode != 0
    libvirt.start_lock_server(here)
    libvirt.must(here, "resume", GUEST)
    at_home.moves()


# -- a guest that writes -----------------------------------------------------------------------------


@pytest.mark.long
def test_the_guest_writes_and_the_intruder_does_not_with_types_5_1_and_8(machine: Machine) -> None:
    needs("sg3-utils", "busybox-static")
    assert not missing_packages()
    site, libvirt = machine.site, machine.libvirt
    site.no_faults()
    site.guest(machine.here, "register", "--key", hex(KEY), "--new-key", "0")
    libvirt.must(machine.here, "destroy", GUEST)
    libvirt.define(machine.here, guest_image())
    libvirt.must(machine.here, "start", GUEST)
    shell(machine, "true", boots=True)
    for kind in (5, 1, 8):
        shell(machine, register(KEY))
        shell(machine, reserve(KEY, kind))
        shell(machine, WRITE_ON)
        with intruder(site) as reports:
            machine.moves()
            machine.moves()
        is_refused(reports)
        wrote_without_error(counts_of(shell(machine, "workload stop")))
        shell(machine, release(KEY, kind))
        shell(machine, unregister(KEY))
    libvirt.must(machine.here, "destroy", GUEST)
    machine.start()


def shell(machine: Machine, command: str, *, boots: bool = False) -> str:
    """Run a command in the guest; it has to succeed. Returns its output."""
    return output_of(machine.site[machine.here].inside(CONSOLE), command, boots=boots)
