"""Pages of two hosts, typed as they stand on separate hosts: a real QEMU moves, and so does its reservation.

All pages share a site. Each finds guest db1 on host-a with its reservation, unless it says otherwise.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.docs.typist import Typist, lines_of
from tests.rig.hosts import until
from tests.rig.separate_guest import SeparateGuest
from tests.rig.separate_site import GUEST, SeparateSite, separate_site

pytestmark = [
    pytest.mark.long,
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra"),
    pytest.mark.xdist_group("separate-hosts"),
]

A, B = "host-a", "host-b"
KEY = 0xDB1
IQN = "iqn.2026-11.org.example:"
OPERATORS = ("admin", "admin-1")
A_DISK = "/dev/disk/by-id/scsi-36001405aaaaa"
MIGRATION = (f"holdover migrate {GUEST} --to {B} --dry-run", f"holdover migrate {GUEST} --to {B}")


class Pages:
    """The site on which pages are typed."""

    def __init__(self, site: SeparateSite) -> None:
        self.site = site
        self.guest = SeparateGuest(site)

    def begin(self) -> None:
        self.site.operators = OPERATORS
        self.site.begin(sections='[metrics]\nlisten = "127.0.0.1:9469"\n')
        self.guest.start(A)
        self.site.guest(A, "register", "--new-key", hex(KEY), "--aptpl")
        self.site.guest(A, "reserve", "--key", hex(KEY), "--type", "wero")

    def at_rest(self) -> None:
        """The guest runs on host-a, and a QEMU on host-b waits for it."""
        if self.guest.rest()[0] == B:
            assert self.guest.migrate(B, A).returncode == 0
            assert self.guest.rest() == (A, B)

    def typist(self, systemctl: Callable[[str], None] | None = None) -> Typist:
        """Somebody at host-a, in the folder with the certificates."""
        names = {A_DISK: self.site.lun_url}
        return Typist(Path("/etc/holdover"), names, {}, systemctl, self.site[A])

    def is_on(self, name: str) -> None:
        """The guest runs on one host alone, which alone has its reservation."""
        held = {f"{IQN}{name}": (KEY, True)}
        until(lambda: self.site.registrants() == held, f"the reservation is not on {name} alone")
        assert self.guest.running_on() == [name]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    with separate_site(tmp_path_factory.mktemp("pages"), A, B) as site:
        made = Pages(site)
        made.begin()
        yield made


@pytest.fixture
def pages(shared: Pages) -> Pages:
    shared.at_rest()
    return shared


def test_drain_a_host(pages: Pages) -> None:
    stopped: list[str] = []

    def systemctl(words: str) -> None:
        stopped.append(words)
        agent = pages.site.agents[A]
        agent.send(signal.SIGTERM)
        until(lambda: not agent.running, "the agent does not end")

    typist = pages.typist(systemctl)
    typist.type("how-to/drain.md")
    assert stopped == ["stop holdover-agent.service"]
    pages.is_on(B)
    said = typist.said["holdover status"]
    assert "departed" in said
    assert "moved" in typist.said["holdover migrations"]
    pages.site.start_agent(A)


def test_a_migration_and_its_dry_run(pages: Pages) -> None:
    typist = pages.typist()
    dry, migration = lines_of("how-to/migration.md", "The migration")
    typist.line(dry)
    pages.is_on(A)
    typist.line(migration)
    pages.is_on(B)


def test_migrations_are_watched_cancelled_and_changed(pages: Pages) -> None:
    typist = pages.typist()
    show, watch, attach, cancel, change = lines_of("how-to/migration.md", "Watch, cancel, change")
    pages.guest.slow_down(A)
    typist.line(MIGRATION[1] + " --detach")
    assert GUEST in typist.line(show)
    watching, following = typist.begin(watch), typist.begin(attach)
    until(lambda: GUEST in watching.output(), "nothing is shown")
    typist.line(cancel)
    until(lambda: not following.running, "nobody says that the migration has ended")
    watching.kill()
    assert pages.guest.reaches(A, "moved", "stayed").phase == "stayed"
    pages.is_on(A)
    pages.guest.start(B, "defer")
    typist.line(MIGRATION[1] + " --detach")
    pages.guest.reaches(A, "copying")
    typist.line(change)
    assert pages.guest.reaches(A, "moved", "stayed").moved
    pages.is_on(B)


def test_guests_that_a_host_knows(pages: Pages) -> None:
    typist = pages.typist()
    everybody, one, release, forget = lines_of("how-to/migration.md", "Guests that a host knows")
    assert GUEST in typist.line(everybody)
    assert hex(KEY) in typist.line(one)
    runs = typist.line(f"{typist.command(release)} --yes", fails=True)
    assert GUEST in runs
    asked = typist.line(release, fails=True)  # without a terminal nobody can answer
    assert "--yes" in asked
    named = typist.line(forget, fails=True)
    assert "file" in named
    pages.is_on(A)


def test_the_gateway(pages: Pages) -> None:
    typist = pages.typist()
    typist.type("start/gateway.md")
    assert "-object secret" in typist.said[f"holdover guest secret {GUEST}"]
    pages.is_on(B)


def test_nodes_of_a_pacemaker_cluster(pages: Pages) -> None:
    typist = pages.typist()
    typist.type("how-to/clusters.md")
    typist.type("how-to/pacemaker.md")
    assert hex(KEY) in typist.said["holdover status"]
    assert "wero" in typist.said["holdover status"]
    pages.is_on(A)


def test_nodes_of_a_windows_failover_cluster(pages: Pages) -> None:
    """All but what is typed in Windows, which the page has in blocks of their own."""
    typist = pages.typist()
    typist.type("how-to/windows-failover-cluster.md")
    assert hex(KEY) in typist.said[f"holdover pr status {pages.site.lun_url}"]
    pages.is_on(B)


def test_all_hosts_at_a_glance(pages: Pages) -> None:
    typist = pages.typist()
    here, everywhere = lines_of("how-to/fleet.md", "On a terminal: `holdover top`")
    assert GUEST in typist.line(here)
    shown = typist.line(everywhere)
    assert A in shown
    assert B in shown
    (dashboard,) = lines_of("how-to/fleet.md", "In a browser: `holdover dashboard`")
    serving = typist.begin(dashboard)
    until(lambda: "http://127.0.0.1:" in serving.output() or not serving.running, "no address is printed")
    assert serving.running, serving.output()
    address = next(each for each in serving.output().split() if each.startswith("http://127.0.0.1:"))
    browser = "curl --silent --show-error --fail --location --cookie-jar /run/cookies"
    fleet = typist.line(f"{browser} '{address}' >/dev/null && {browser} --cookie /run/cookies "
                        f"{address.partition('?')[0]}fleet.json")  # fmt: skip
    assert A in fleet
    assert B in fleet
    serving.kill()


def test_metrics_and_health(pages: Pages) -> None:
    typist = pages.typist()
    metrics, ready = lines_of("how-to/monitoring.md", "Where to read")
    assert "holdover_" in typist.line(metrics)
    assert '"ready":true' in typist.line(ready).replace(" ", "")


def test_doctor(pages: Pages) -> None:
    typist = pages.typist()
    plain, as_json = lines_of("how-to/doctor.md")
    assert "host-b answers" in typist.line(plain)
    assert '"healthy":true' in typist.line(as_json).replace(" ", "")


def test_an_operators_certificate(pages: Pages) -> None:
    typist = pages.typist()
    variables, command = lines_of("how-to/certificates.md", "An operator's commands")
    shown = typist.line(f"{typist.command(variables)}; {command}")
    assert A in shown
    assert B in shown


def test_the_journal(pages: Pages) -> None:
    typist = pages.typist()
    check, show = lines_of("how-to/journal.md")
    typist.line(check)
    assert GUEST in typist.line(show)


def test_a_migration_that_another_program_drives(shared: Pages) -> None:
    """The reservations alone; the guest's QEMU has ended."""
    shared.at_rest()
    for qemu in shared.guest.qemus.values():
        if qemu.running:
            qemu.kill()
    typist = shared.typist()
    prepare, commit, finish, roll_back, status = lines_of(
        "how-to/handover.md", "Where another program drives the migration"
    )
    typist.line(prepare)
    typist.line(roll_back)
    assert "stayed" in typist.line(status)
    typist.line(prepare)
    typist.line(commit)
    typist.line(roll_back)
    assert shared.site.registrants() == {f"{IQN}{A}": (KEY, True)}
    for line in (prepare, commit, finish):
        typist.line(line)
    assert shared.site.registrants() == {f"{IQN}{B}": (KEY, True)}
    assert "guest db1 is on host-b with its reservations" in typist.line(status)
