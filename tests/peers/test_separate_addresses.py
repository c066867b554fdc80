"""A SAN with two addresses, by which the agents' files name two LUNs of one guest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.hosts import until
from tests.rig.separate_pair import IQN, KEY, SIDES
from tests.rig.separate_site import GUEST, SAN, SAN_IQN, SOCKET, SeparateSite, separate_site

pytestmark = [pytest.mark.xdist_group("separate-hosts"), pytest.mark.long]

SECOND = "10.77.0.200"
A, B = SIDES
_API = f"unix:{SOCKET}"
_FILE = "/etc/holdover/agent.toml"
_PAIR = f"two addresses of one target, {SAN_IQN}"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[SeparateSite]:
    """The guest holds a reservation of each LUN on the first host."""
    with separate_site(tmp_path, *SIDES, luns=2) as made:
        made.second_address = SECOND
        made.begin()
        for lun in range(2):
            made.guest(A, "register", "--new-key", hex(KEY), "--aptpl", lun=lun)
            made.guest(A, "reserve", "--key", hex(KEY), "--type", "5", lun=lun)
        yield made


def held_by(name: str) -> list[dict[str, tuple[int, bool]]]:
    return [{f"{IQN}{name}": (KEY, True)}] * 2


def warns(site: SeparateSite, name: str) -> list[str]:
    """The lines of `holdover status` on a host that name two addresses."""
    return [line for line in site[name].must("status", "--api", _API).splitlines() if _PAIR in line]


def test_two_addresses_are_named_and_the_guest_stays_until_its_drives_have_one(site: SeparateSite) -> None:
    drives = f"iscsi://{SAN}:3260/{SAN_IQN}/0 and iscsi://{SECOND}:3260/{SAN_IQN}/1"
    for name in SIDES:
        warned = f"guest {GUEST}: the drives {drives} may be {_PAIR}"
        assert f"warning  addresses: {warned}" in site[name].holdover("doctor", "--config", _FILE).stdout
        assert f'explain=two-addresses reason="{warned}' in site.agents[name].output()
    while not (seen := warns(site, A)):
        for lun in range(2):
            site.guest(A, "status", lun=lun)
    assert [GUEST in line and f"{SAN}:3260" in line and f"{SECOND}:3260" in line for line in seen] == [True]
    assert "A target ends a session of a guest whenever" in site.agents[A].output()

    tried = site[A].holdover("handover", "prepare", GUEST, "--at", _API, "--to", B)
    if tried.returncode:
        assert "no answer came to repeated commands" in tried.stdout + tried.stderr
    else:  # by chance no command has met another one's login
        site.handover(A, "rollback")
    until(lambda: all(map(site.is_over, SIDES)), "the handover is not over")
    assert held_by(A) == [site.registrants(lun) for lun in range(2)]

    # the last steps of the runbook
    for name in SIDES:
        file = site[name].etc / "agent.toml"
        file.write_text(file.read_text(encoding="utf-8").replace(SECOND, SAN), encoding="utf-8")
        site.agents[name].kill()
        site.start_agent(name)
        assert warns(site, name) == []
        assert "ok  addresses: " in site[name].holdover("doctor", "--config", _FILE).stdout
    assert held_by(A) == [site.registrants(lun) for lun in range(2)]
    for action, state in (("prepare", "prepared"), ("commit", "committed"), ("finish", "gone")):
        options = ("--to", B) if action == "prepare" else ()
        assert site.handover(A, action, *options)["state"] == state
    assert held_by(B) == [site.registrants(lun) for lun in range(2)]
