"""An agent is replaced by its successor at twelve instants of a migration: the guest ends on one host."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest

from tests.peers.test_separate_instants import INSTANTS, stop_at
from tests.rig.hosts import until
from tests.rig.separate_pair import Pair
from tests.rig.separate_site import SOCKET

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra"),
    pytest.mark.xdist_group("separate-hosts"),
]

_AGENT = "agent --config"


def has_no_agent(pair: Pair, name: str) -> bool:
    """Whether no agent runs on a host, and the socket of the last one is gone, which outlives its name."""
    host = pair.guest.site[name]
    return not host.run("pgrep", "-f", _AGENT).stdout and not host.listens(SOCKET)


def replaced(pair: Pair, name: str) -> None:
    """Wait until the agent that was started has ended, and its successor answers.

    The successor has the old agent's environment, so it stops at the same instant as that did: it goes on at
    once.
    """
    host = pair.guest.site[name]

    def look() -> bool:
        host.run("pkill", "-CONT", "-f", _AGENT)
        return not pair.guest.site.agents[name].running and host.listens(SOCKET)

    until(look, f"{name}: the agent is not replaced")


@pytest.fixture
def ends_successors(pair: Pair) -> Iterator[Pair]:
    """Both hosts have agents of the test's own again at the end."""
    yield pair
    for name in pair.guest.site.names:
        if not pair.guest.site.agents[name].running:
            pair.guest.site[name].run("pkill", "-KILL", "-f", _AGENT)
            until(partial(has_no_agent, pair, name), f"{name}: the successor does not end")
            pair.guest.site.start_agent(name)


_BRIEF = (("source", "starting", "before"), ("destination", "switching", "before"))
_CASES = [
    pytest.param(side, *instant, marks=() if (side, *instant) in _BRIEF else pytest.mark.long)
    for side, instant in product(("source", "destination"), INSTANTS)
]


@pytest.mark.parametrize(("side", "phase", "when"), _CASES)
def test_an_agent_is_replaced(ends_successors: Pair, side: str, phase: str, when: str) -> None:
    pair = ends_successors
    command = stop_at(pair, phase, when)
    site, source = pair.guest.site, pair.guest.site.agents[pair.here]
    if side == "source":
        source.send(signal.SIGUSR2)
        source.go_on()
        replaced(pair, pair.here)
    else:
        site.agents[pair.there].send(signal.SIGUSR2)
        replaced(pair, pair.there)
        source.go_on()

    def ended() -> bool:
        site[pair.here].run("pkill", "-CONT", "-f", _AGENT)
        return not command.running

    until(ended, "the command does not end")
    if pair.guest.migration(pair.here) is not None:
        pair.ends_on_one_host()
    else:
        assert (phase, when) == ("preparing", "before")
