"""Each process of a migration dies at twelve instants, and each link is cut there.

The source's agent stops itself at the instant, then something dies or is cut, then the agent goes on. A cut
lasts for 1, 10 or 60 seconds: at each instant each of the three links for another time, and each link for
each time at four instants.
`tests/peers/test_separate_migration.py` kills the source's agent itself at the same instants.
"""

from __future__ import annotations

import time

import pytest

from tests.rig.hosts import Program, until
from tests.rig.separate_pair import Pair
from tests.rig.separate_site import SAN

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra"),
    pytest.mark.xdist_group("separate-hosts"),
    pytest.mark.long,
]

PHASES = ("preparing", "opening", "copying", "switching", "starting", "finishing")
INSTANTS = [(phase, when) for phase in PHASES for when in ("before", "after")]


def stop_at(pair: Pair, phase: str, when: str) -> Program:
    """The command that began the migration; the source's agent stands still at the instant."""
    pair.restart_agent(pair.here, HOLDOVER_STOP_AT=f"migration-{phase}:1:{when}")
    command = pair.guest.begin(pair.here, pair.there)
    until(lambda: pair.guest.site.agents[pair.here].stopped, "the agent does not stop")
    return command


def go_on(pair: Pair, command: Program) -> None:
    pair.guest.site.agents[pair.here].go_on()
    until(lambda: not command.running, "the command does not end")


@pytest.mark.parametrize(("phase", "when"), INSTANTS)
@pytest.mark.parametrize("victim", ["source QEMU", "destination QEMU", "destination agent", "target"])
def test_a_process_dies(pair: Pair, victim: str, phase: str, when: str) -> None:
    guest, site = pair.guest, pair.guest.site
    command = stop_at(pair, phase, when)
    match victim:
        case "source QEMU":
            guest.qemus[pair.here].kill()
        case "destination QEMU":
            guest.qemus[pair.there].kill()
        case "destination agent":
            pair.restart_agent(pair.there)
        case _:
            site.target.kill()
            site.start_san()
    go_on(pair, command)
    if guest.migration(pair.here) is not None:
        pair.ends_soundly()
    else:
        assert (phase, when) == ("preparing", "before")


# before the first instant the agent has not taken up what the command asks for
@pytest.mark.parametrize(("phase", "when"), INSTANTS[1:])
def test_the_command_dies(pair: Pair, phase: str, when: str) -> None:
    command = stop_at(pair, phase, when)
    command.kill()
    go_on(pair, command)
    assert pair.ends_on_one_host().moved


LINKS = ("hosts", "source and SAN", "destination and SAN")
SECONDS = (1, 10, 60)
CUTS = [
    (between, phase, when, SECONDS[(link + number) % len(SECONDS)])
    for link, between in enumerate(LINKS)
    for number, (phase, when) in enumerate(INSTANTS)
]


@pytest.mark.parametrize(("between", "phase", "when", "seconds"), CUTS)
def test_a_link_is_cut(pair: Pair, between: str, phase: str, when: str, seconds: int) -> None:
    hosts = pair.guest.site.hosts
    cut = {
        "hosts": (pair.here, pair.there),
        "source and SAN": (pair.here, SAN),
        "destination and SAN": (pair.there, SAN),
    }[between]
    command = stop_at(pair, phase, when)
    hosts.cut(*cut)
    try:
        pair.guest.site.agents[pair.here].go_on()
        # the seconds begin when the agent goes on: it has entered the phase, or gives up
        pair.guest.site[pair.here].holdover("status", timeout=120)
        time.sleep(seconds)
    finally:
        hosts.mend(*cut)
    until(lambda: not command.running, "the command does not end")
    pair.ends_on_one_host()
