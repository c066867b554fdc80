"""Real Linux guests go round three separate hosts: host-a, host-b, host-c and home, by `holdover migrate`.

The guest writes all the time and verifies what it has written; an intruder without a registration writes too,
and is refused; a third node has the guest's own key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.hosts import until
from tests.rig.intruder import intruder, is_refused
from tests.rig.separate_guest import SeparateGuest
from tests.rig.separate_pair import IQN, KEY
from tests.rig.separate_site import GUEST, separate_site
from tests.rig.separate_tourist import Tourist

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra", "busybox-static", "sg3-utils"),
    pytest.mark.xdist_group("separate-hosts"),
    pytest.mark.long,
]

HOSTS = ("host-a", "host-b", "host-c")
TOUR = ("host-b", "host-c", "host-a")
ALL_REGISTRANTS = 8


@pytest.fixture(scope="module")
def tourist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tourist]:
    with separate_site(tmp_path_factory.mktemp("tour"), *HOSTS) as site:
        site.begin()
        made = Tourist(site)
        made.boot()
        yield made


@pytest.mark.parametrize("third", [False, True], ids=["own key", "shared key"])
@pytest.mark.parametrize("kind", [1, 5, ALL_REGISTRANTS])
def test_the_reservation_goes_round_with_the_guest(tourist: Tourist, kind: int, third: bool) -> None:
    tourist.reserve(kind, third=third)
    with intruder(tourist.site) as reports:
        for host in TOUR:
            tourist.go(host)
            tourist.is_at_home(third=third, all_registrants=kind == ALL_REGISTRANTS)
    is_refused(reports)
    tourist.leave(kind, third=third)


@pytest.mark.parametrize(("kind", "phase"), [(1, "copying"), (5, "switching"), (ALL_REGISTRANTS, "starting")])
def test_an_agent_or_the_target_dies_on_each_way(tourist: Tourist, kind: int, phase: str) -> None:
    # commands wait while something starts again: the guest does not give them up
    tourist.shell("echo 600 >/sys/block/sda/device/timeout")
    # if another node has the key, an agent that starts again does not know whose the reservation is
    third = all_registrants = kind == ALL_REGISTRANTS
    tourist.reserve(kind, third=third)
    with intruder(tourist.site) as reports:
        for victim, host in zip(("source agent", "destination agent"), TOUR[:2], strict=True):
            tourist.go_though(victim, host, phase)
            tourist.is_at_home(third=third, all_registrants=all_registrants)
    is_refused(reports)
    # an intruder's session ends with the target
    tourist.go_though("target", TOUR[2], phase)
    tourist.is_at_home(third=third, all_registrants=all_registrants)
    tourist.leave(kind, third=third)


def test_release_and_forget_of_a_guest_that_is_shut_down(tmp_path: Path) -> None:
    with separate_site(tmp_path / "site", *HOSTS[:2]) as site:
        site.begin()
        guest = SeparateGuest(site)
        guest.start("host-a")
        site.guest("host-a", "register", "--new-key", hex(KEY), "--aptpl")
        site.guest("host-a", "reserve", "--key", hex(KEY), "--type", "5")
        runs = site["host-a"].holdover("guest", "release", GUEST, "--yes")
        assert runs.returncode == 1
        assert GUEST in runs.stderr
        assert site.registrants() == {f"{IQN}host-a": (KEY, True)}
        guest.qemus["host-a"].kill()
        until(
            lambda: site["host-a"].holdover("guest", "release", GUEST, "--yes").returncode == 0,
            "host-a does not notice that the guest has ended",
        )
        assert site.registrants() == {}
        # it is in the agent's file, so it cannot be forgotten
        kept = site["host-a"].holdover("guest", "forget", GUEST)
        assert kept.returncode == 1
        assert "file" in kept.stderr
