"""Each thing that people do to a domain with libvirt, and what becomes of its reservation.

`docs/how-to/libvirt.md` has these cases as a table; a test compares both.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.rig.hosts import until
from tests.rig.libvirt_machine import EVENTS, QUESTIONS, SLOW_COMMIT, Machine, libvirt_site
from tests.rig.separate_libvirt import AGENT_LOCK_SOCKET
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


@case("a snapshot of memory (`virsh snapshot-create-as --memspec`), which pauses the guest and lets it go on")
def snapshot(machine: Machine) -> None:
    here, libvirt = machine.here, machine.libvirt
    libvirt.define(here)
    memory = ("--memspec", "file=/var/lib/libvirt/db1.memory")
    libvirt.must(here, "snapshot-create-as", GUEST, "first", *memory, "--diskspec", "sda,snapshot=no")
    libvirt.must(here, "snapshot-delete", GUEST, "first", "--metadata")


@case("`<on_reboot>destroy</on_reboot>` and `virsh reset`, which ends the guest; then `virsh start`")
def destroy_on_reboot(machine: Machine) -> None:
    here, libvirt = machine.here, machine.libvirt
    libvirt.define(here, events="<on_reboot>destroy</on_reboot>")
    libvirt.must(here, "destroy", GUEST)
    libvirt.must(here, "start", GUEST)
    libvirt.must(here, "reset", GUEST)
    until(lambda: libvirt.state(here) == "shut off", "the guest is not ended")
    libvirt.define(here)
    libvirt.must(here, "start", GUEST)


@case("the guest panics, with `<on_crash>restart</on_crash>`, which resets it")
def restart_on_crash(machine: Machine) -> None:
    crashes(machine, "restart")
    asks = machine.says(machine.here, "Libvirt asks whether a guest may run.")
    machine.libvirt.panic(machine.here)
    until(asks, "libvirt does not run the guest again")
    until(lambda: machine.libvirt.state(machine.here) == "running", "the guest does not run again")
    machine.libvirt.define(machine.here)


@case("the guest panics, with `<on_crash>destroy</on_crash>`, which ends it; then `virsh start`")
def destroy_on_crash(machine: Machine) -> None:
    crashes(machine, "destroy")
    machine.libvirt.panic(machine.here)
    until(lambda: machine.libvirt.state(machine.here) == "shut off", "the guest is not ended")
    machine.libvirt.must(machine.here, "start", GUEST)


@case("the guest panics, with `<on_crash>preserve</on_crash>`, which pauses it; then `virsh resume`")
def preserve_on_crash(machine: Machine) -> None:
    crashes(machine, "preserve")
    machine.libvirt.panic(machine.here)
    until(lambda: machine.libvirt.state(machine.here) == "crashed", "the guest is not paused")
    machine.libvirt.must(machine.here, "resume", GUEST)
    machine.libvirt.define(machine.here)


@case("the guest panics, with `<on_crash>coredump-restart</on_crash>`, which writes its memory and resets it")
def dump_on_crash(machine: Machine) -> None:
    crashes(machine, "coredump-restart")
    asks = machine.says(machine.here, "Libvirt asks whether a guest may run.")
    machine.libvirt.panic(machine.here)
    until(asks, "libvirt does not run the guest again")
    until(lambda: machine.libvirt.state(machine.here) == "running", "the guest does not run again")
    machine.libvirt.define(machine.here)


@case("QEMU is killed, and libvirt does not restart it, `<on_crash>` or not; then `virsh start`")
def kill_with_on_crash(machine: Machine) -> None:
    crashes(machine, "restart")
    machine.libvirt.kill_qemu(machine.here)
    until(lambda: machine.libvirt.state(machine.here) == "shut off", "libvirt has not seen the end")
    machine.libvirt.define(machine.here)
    machine.libvirt.must(machine.here, "start", GUEST)


def crashes(machine: Machine, then: str) -> None:
    """Start the guest anew with this ``on_crash``."""
    machine.libvirt.define(machine.here, events=f"<on_crash>{then}</on_crash>")
    machine.libvirt.must(machine.here, "destroy", GUEST)
    machine.libvirt.must(machine.here, "start", GUEST)
    machine.is_at_home()


@case("a host with `virsh autostart` reboots")
def autostart(machine: Machine) -> None:
    machine.libvirt.define(machine.here)
    machine.libvirt.must(machine.here, "autostart", GUEST)
    reboot(machine, machine.here)
    machine.is_at_home()
    machine.libvirt.must(machine.here, "autostart", GUEST, "--disable")


@case("a host with `virsh autostart` reboots after the guest was migrated from it")
def autostart_of_a_guest_that_has_left(machine: Machine) -> None:
    before = machine.here
    machine.libvirt.define(before)
    machine.libvirt.must(before, "autostart", GUEST)
    machine.moves()
    reboot(machine, before)
    daemon = machine.libvirt.daemons[before]
    until(
        lambda: f"guest {GUEST} runs on {machine.here}" in daemon.output(),
        "libvirt has not tried to start the guest",
    )
    assert machine.libvirt.state(before) == "shut off"
    machine.libvirt.must(before, "undefine", GUEST)


def reboot(machine: Machine, host: str) -> None:
    """End everything on a host at once, and start it again as systemd does."""
    libvirt = machine.libvirt
    libvirt.kill_daemons(host)
    if libvirt.qemu_of(host):
        libvirt.kill_qemu(host)
    machine.site.agents[host].kill()
    libvirt.lock_servers[host].send(signal.SIGKILL)
    cleared = machine.site[host].run("sh", "-c", "rm -rf /run/libvirt/*")
    assert cleared.returncode == 0, cleared.stderr
    machine.site.start_agent(host)
    libvirt.start_lock_server(host)
    until(lambda: machine.site[host].listens(AGENT_LOCK_SOCKET), "the agent does not answer")
    libvirt.start_daemon(host)


@case("`virsh domjobabort` while memory is copied")
def abort(machine: Machine) -> None:
    moving = machine.migrate("--bandwidth", "1")

    def aborts() -> bool:
        return machine.libvirt.virsh(machine.here, "domjobabort", GUEST).returncode == 0

    until(lambda: moving.done() or aborts(), "there is no job")
    assert moving.result().returncode != 0
    gone = ("none", "shut off")  # the latter where an earlier case has defined it
    until(lambda: machine.libvirt.state(machine.there) in gone, "the destination keeps the domain")


@case("`virsh domjobabort` while libvirt asks on the destination")
def late_abort(machine: Machine) -> None:
    commits = machine.says(machine.there, "ask the source to commit")
    machine.site.fault(SLOW_COMMIT)
    moving = machine.migrate()
    until(commits, "libvirt does not ask")
    machine.libvirt.virsh(machine.here, "domjobabort", GUEST)
    done = moving.result()
    assert done.returncode == 0, done.stderr
    machine.here, machine.there = machine.there, machine.here


@case("`virsh migrate --direct`")
def direct(machine: Machine) -> None:
    refused = machine.libvirt.migrate(machine.here, machine.there, "--direct")
    assert refused.returncode != 0
    assert "not supported" in refused.stderr, refused.stderr


@case("`virsh suspend`, then `virsh migrate`, then `virsh resume` on the destination")
def migrate_suspended(machine: Machine) -> None:
    machine.libvirt.must(machine.here, "suspend", GUEST)
    done = machine.libvirt.migrate(machine.here, machine.there)
    assert done.returncode == 0, done.stderr
    assert machine.libvirt.state(machine.there) == "paused"
    machine.libvirt.must(machine.there, "resume", GUEST)
    machine.here, machine.there = machine.there, machine.here


@case("`virsh migrate --offline --persistent` of a guest that is off; then `virsh start` on the destination")
def offline(machine: Machine) -> None:
    here, there, libvirt = machine.here, machine.there, machine.libvirt
    libvirt.define(here)
    libvirt.must(here, "destroy", GUEST)
    options = ("--offline", "--persistent", "--undefinesource")
    libvirt.must(here, "migrate", *options, GUEST, f"qemu+tcp://{there}/system")
    libvirt.must(there, "start", GUEST)
    machine.here, machine.there = there, here


@pytest.fixture(scope="module", params=[EVENTS, QUESTIONS])
def machine(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """The domain on two hosts, whose agents hear libvirt's events or do not."""
    with libvirt_site(tmp_path_factory.mktemp("libvirt"), ways=request.param) as made:
        yield made


@pytest.mark.parametrize("text", list(CASES))
def test_case(machine: Machine, text: str) -> None:
    machine.rests()
    CASES[text](machine)
    machine.is_at_home()


def test_the_page_has_the_cases_of_these_tests() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Each case")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0].removeprefix("| ") for line in section.splitlines() if line[:2] == "| "]
    assert [each for each in cells if each not in ("case", "---")] == list(CASES)
