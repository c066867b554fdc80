"""Handovers between hosts that share a network and a SAN and nothing else, with the agents' mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.hosts import until
from tests.rig.separate_site import GUEST, SOCKET, SeparateSite, separate_site

pytestmark = pytest.mark.xdist_group("separate-hosts")

KEY = 0xABC
IQN = "iqn.2026-11.org.example:"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SeparateSite]:
    """Three hosts with agents and a SAN; the guest holds a reservation on the first host."""
    with separate_site(tmp_path, "host-a", "host-b", "host-c") as made:
        made.begin()
        made.guest("host-a", "register", "--new-key", hex(KEY), "--aptpl")
        made.guest("host-a", "reserve", "--key", hex(KEY), "--type", "5")
        yield made


def held_by(name: str) -> dict[str, tuple[int, bool]]:
    """The registrants of the LUN when the guest's reservation is on one host alone."""
    return {f"{IQN}{name}": (KEY, True)}


def status(site: SeparateSite) -> str:
    """What the first host says of the guest's handover, which may be in doubt."""
    said = site["host-a"].holdover("handover", "status", GUEST, "--at", f"unix:{SOCKET}", "--json")
    return said.stdout


def test_the_reservation_moves_on_and_comes_home(site: SeparateSite) -> None:
    for source, destination in (("host-a", "host-b"), ("host-b", "host-c"), ("host-c", "host-a")):
        assert site.handover(source, "prepare", "--to", destination)["state"] == "prepared"
        assert site.registrants()[f"{IQN}{source}"] == (KEY, True)
        assert site.handover(source, "commit")["state"] == "committed"
        assert site.registrants() == held_by(destination)
        assert site.handover(source, "finish")["state"] == "gone"


@pytest.mark.long
def test_a_partition_between_the_hosts_before_the_commit_leaves_the_guest_where_it_is(
    site: SeparateSite,
) -> None:
    site.handover("host-a", "prepare", "--to", "host-b")
    site.hosts.cut("host-a", "host-b")
    refused = site["host-a"].holdover("handover", "commit", GUEST, "--at", f"unix:{SOCKET}")
    assert refused.returncode in (1, 3), refused.stdout + refused.stderr
    assert site.registrants()[f"{IQN}host-a"] == (KEY, True)
    site.hosts.mend("host-a", "host-b")
    until(lambda: site.handover("host-a", "status")["state"] == "stayed", "the roll back does not end")
    until(lambda: site.registrants() == held_by("host-a"), "the destination keeps its registration")


@pytest.mark.long
def test_a_destination_that_dies_while_prepared_keeps_nothing(site: SeparateSite) -> None:
    site.handover("host-a", "prepare", "--to", "host-b")
    site.agents["host-b"].kill()
    assert site.handover("host-a", "rollback", "--alone")["state"] == "stayed"
    assert site.registrants() == held_by("host-a")
    site.start_agent("host-b")
    assert site.registrants() == held_by("host-a")


def test_a_source_that_is_dead_and_cut_off_comes_back_and_takes_nothing(site: SeparateSite) -> None:
    site.handover("host-a", "prepare", "--to", "host-b")
    site.agents["host-a"].kill()
    site.hosts.cut("host-a", "host-b")
    assert site.handover("host-b", "take")["state"] == "taken"
    assert site.registrants() == held_by("host-b")
    site.start_agent("host-a")
    # its LUN shows that its registration is gone; the guest's commands wait until the destination says why
    until(lambda: '"state":"retracting"' in status(site), "the source does not wait")
    assert "does not have the registrations that are on record" in status(site)
    site.hosts.mend("host-a", "host-b")
    until(lambda: '"state":"gone"' in status(site), "the source does not concede")
    assert site.registrants() == held_by("host-b")


def test_a_restarted_source_whose_guest_was_not_taken_lets_it_go_on(site: SeparateSite) -> None:
    site.handover("host-a", "prepare", "--to", "host-b")
    site.agents["host-a"].kill()
    site.hosts.cut("host-a", "host-b")
    site.start_agent("host-a")
    until(lambda: site.handover("host-a", "status")["state"] == "prepared", "the source does not go on")
    site.guest("host-a", "register", "--key", hex(KEY), "--new-key", hex(KEY), "--aptpl")
    assert site.registrants() == {f"{IQN}host-a": (KEY, True), f"{IQN}host-b": (KEY, False)}


@pytest.mark.long
def test_what_the_guest_did_on_the_destination_comes_home_with_it(site: SeparateSite) -> None:
    site.handover("host-a", "prepare", "--to", "host-b")
    site.handover("host-a", "commit")
    site.guest("host-b", "register", "--key", hex(KEY), "--new-key", "0x9", "--aptpl")
    assert site.handover("host-a", "rollback")["state"] == "stayed"
    assert site.registrants() == {f"{IQN}host-a": (0x9, True)}


def test_two_hosts_with_one_initiator_name_are_refused_before_anything_is_registered(tmp_path: Path) -> None:
    with separate_site(tmp_path, "host-a", "host-b") as site:
        site.begin({"host-b": f"{IQN}host-a"})
        site.guest("host-a", "register", "--new-key", hex(KEY), "--aptpl")
        site.guest("host-a", "reserve", "--key", hex(KEY), "--type", "5")
        refused = site["host-a"].holdover("handover", "prepare", GUEST, "--to", "host-b")
        assert refused.returncode == 1, refused.stdout + refused.stderr
        said = refused.stdout + refused.stderr
        assert "host-a" in said
        assert "host-b" in said
        assert site.registrants() == held_by("host-a")
        assert site.handover("host-a", "status")["state"] == "stayed"


def test_a_host_without_a_certificate_is_told_nothing(site: SeparateSite) -> None:
    refused = site["san"].holdover("status", "--api", "host-a:7411")
    assert refused.returncode != 0
    assert "certificate" in refused.stdout + refused.stderr
    # the operator's Unix socket of one host is no file of another
    assert not site["san"].listens(SOCKET)
