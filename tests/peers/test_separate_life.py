"""The life of a guest on three hosts that share a network and a SAN alone: cold starts, dead hosts.

The guest is an initiator at its export: its reservations and its commands are all that these hosts see of it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.amounts import some
from tests.rig.hosts import until
from tests.rig.separate_site import GUEST, SeparateSite, separate_site

pytestmark = pytest.mark.xdist_group("separate-hosts")

KEY, THIRD = 0xABC, 0x77
IQN = "iqn.2026-11.org.example:"
A, B, C = "host-a", "host-b", "host-c"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateSite]:
    """Three hosts and a SAN. Another node is registered on the LUN, with APTPL, all the time."""
    folder: Path = tmp_path_factory.mktemp("site")
    with separate_site(folder, A, B, C) as made:
        made.begin()
        made["san"].must(
            "pr", "register", made.lun_url, "--new-key", hex(THIRD), "--aptpl", "--initiator", f"{IQN}third"
        )
        yield made


def gate(site: SeparateSite, name: str) -> str:
    (guest,) = site[name].json("guest", "show", GUEST)
    return str(guest["devices"][0]["gate"])


def begin_on(site: SeparateSite, name: str, had: str) -> None:
    """Every agent runs, no host is declared dead, and the guest is on a host with what it ``had`` there."""
    for each in (A, B, C):
        if not site.agents[each].running:
            site.start_agent(each)
    for peer in site[A].json("host", "list")["hosts"]:
        if peer["dead"] is not None:
            site[A].must("host", "declare-alive", peer["name"])
    until(
        lambda: site[name].holdover("guest", "start", GUEST).returncode == 0, f"{name} does not get the guest"
    )
    site[name].must("guest", "release", GUEST, "--yes")
    site[name].must("guest", "start", GUEST)
    if had != "nothing":
        site.guest(name, "register", "--new-key", hex(KEY), "--aptpl")
    if had == "held":
        site.guest(name, "reserve", "--key", hex(KEY), "--type", "5")


def has(site: SeparateSite, name: str, had: str) -> None:
    """What the guest had is on one host alone, and the other node has what it had."""
    mine = {} if had == "nothing" else {f"{IQN}{name}": (KEY, had == "held")}
    assert site.registrants() == mine | {f"{IQN}third": (THIRD, False)}


@pytest.mark.parametrize("had", some(("held", "registered", "nothing"), 3))
@pytest.mark.parametrize("other", some(("dead", "up", "silent"), 3))
def test_a_guest_of_another_host_is_started(site: SeparateSite, other: str, had: str) -> None:
    begin_on(site, B, had)
    if other == "up":
        assert "was handed over from host-b" in site[A].must("guest", "start", GUEST)
        has(site, A, had)
        return
    site.agents[B].kill()
    refused = site[A].holdover("guest", "start", GUEST)
    assert refused.returncode == 1
    assert "fence it, then: holdover host declare-dead host-b" in refused.stderr
    has(site, B, had)
    assert gate(site, A) != "running"
    if other == "silent":
        return
    site[A].must("host", "declare-dead", B, "--why", "its power is off")
    started = site[A].must("guest", "start", GUEST)
    assert ("was taken from host-b" in started) == (had != "nothing")
    has(site, A, had)
    assert gate(site, A) == "running"
    # the dead host comes back: it hears of it, and lets no command of the guest pass
    site.start_agent(B)
    until(lambda: gate(site, B) == "departed", "the host that comes back keeps its gate open")
    assert "has declared this host dead" in site[B].must("status")
    has(site, A, had)


@pytest.mark.long
def test_two_hosts_that_start_a_guest_at_once_do_not_both_get_it(site: SeparateSite) -> None:
    begin_on(site, B, "nothing")
    site[B].must("guest", "release", GUEST, "--yes")
    threads = [
        threading.Thread(target=site[name].holdover, args=("guest", "start", GUEST)) for name in (A, B, C)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [gate(site, name) for name in (A, B, C)].count("running") == 1


@pytest.mark.long
@pytest.mark.parametrize("between", [(A, B), (A, C), (A, "san"), (B, "san")], ids="-".join)
def test_a_start_during_a_partition_changes_nothing_or_ends_on_one_host(
    site: SeparateSite, between: tuple[str, str]
) -> None:
    begin_on(site, B, "held")
    site.hosts.cut(*between)
    try:
        during = site[A].holdover("guest", "start", GUEST, timeout=600)
    finally:
        site.hosts.mend(*between)
    assert during.returncode == 1, during.stdout
    assert "guest db1" in during.stderr
    ended = until(
        lambda: (done := site[A].holdover("guest", "start", GUEST)).returncode == 0 and done,
        "the guest cannot be started after the partition",
    )
    assert ended
    has(site, A, "held")
    assert [gate(site, name) for name in (A, B, C)].count("running") == 1
