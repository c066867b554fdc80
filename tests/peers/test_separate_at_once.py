"""Three guests go round three separate hosts at once, each to another host than the others."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.peers.test_separate_tour import ALL_REGISTRANTS, HOSTS
from tests.rig.intruder import intruder, is_refused
from tests.rig.separate_pair import IQN, KEY
from tests.rig.separate_site import SAN, SeparateSite, separate_site
from tests.rig.separate_tourist import Tourist

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra", "busybox-static", "sg3-utils"),
    pytest.mark.xdist_group("separate-hosts"),
    pytest.mark.long,
]

HOMES = dict(zip(("db1", "db2", "db3"), HOSTS, strict=True))
KINDS = dict(zip(HOMES, (1, 5, ALL_REGISTRANTS), strict=True))


def everyone(tourists: dict[str, Tourist], do: Callable[[Tourist], None]) -> None:
    """Do something with all guests at once."""
    with ThreadPoolExecutor(len(tourists)) as pool:
        for done in [pool.submit(do, each) for each in tourists.values()]:
            done.result()


def go_round(site: SeparateSite, tourists: dict[str, Tourist], stops: int) -> None:
    """All guests move to the next host at once; meanwhile an intruder writes, at each stop to another LUN.

    There is one intruder, since a target ends the session of an initiator that logs in again.
    """
    for watched in list(tourists.values())[:stops]:
        with intruder(site, watched.lun) as reports:
            everyone(tourists, lambda each: each.go(HOSTS[(HOSTS.index(each.here) + 1) % len(HOSTS)]))
            for name, each in tourists.items():
                each.is_at_home(third=True, all_registrants=KINDS[name] == ALL_REGISTRANTS)
        is_refused(reports)


def test_three_guests_move_at_once_and_each_keeps_its_reservation(tmp_path: Path) -> None:
    with separate_site(tmp_path, *HOSTS, luns=len(HOMES), guests=HOMES) as site:
        site.begin()
        tourists = {name: Tourist(site, name, linux=False) for name in HOMES}
        for name, each in tourists.items():
            site.guest(each.here, "register", "--new-key", hex(KEY), "--aptpl", guest=name)
            site.guest(each.here, "reserve", "--key", hex(KEY), "--type", str(KINDS[name]), guest=name)
            third = (site.url_of(each.lun), "--initiator", f"{IQN}third")
            site[SAN].must("pr", "register", *third, "--new-key", hex(KEY), "--aptpl")
            each.start(each.here)
        go_round(site, tourists, 1)


def test_three_linux_guests_go_round_at_once_while_they_write(tmp_path: Path) -> None:
    with separate_site(tmp_path, *HOSTS, luns=len(HOMES), guests=HOMES) as site:
        site.begin()
        tourists = {name: Tourist(site, name) for name in HOMES}
        everyone(tourists, Tourist.boot)
        for name, each in tourists.items():
            each.reserve(KINDS[name], third=True)
        go_round(site, tourists, len(HOSTS))
        for name, each in tourists.items():
            assert each.here == HOMES[name]
            each.counts_no_error()
