"""SIGUSR2 amid a handover: the guest ends on exactly one host, with its reservation.

The agents of both hosts are services, and the LUN is slow at the command amid which the signal comes. The
operator types what the pages say: a command may be repeated, and `handover status` names what comes next.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from typing import Any

import pytest
from bench.agents import GUEST, own_environment, settings
from bench.service_manager import ServiceManager

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.config.agent_file import export_iqn
from tests.rig.amounts import some
from tests.rig.processes import HOSTS, Rig, free_port

A, B = HOSTS
KEY = "0xdb1"
_PATIENCE = 600.0


def until(look: Callable[[], Any], otherwise: Callable[[], str]) -> None:
    end = time.monotonic() + _PATIENCE
    while not look():
        assert time.monotonic() < end, otherwise()
        time.sleep(0.05)


class Site:
    """Two hosts whose agents are services, and a guest with a reservation on the first."""

    def __init__(self, rig: Rig, stack: ExitStack) -> None:
        self.rig = rig
        self.control = rig.folder / "san.sock"
        self.target = rig.target(options=["--json-events", "--control", str(self.control)])
        self.managers: dict[str, ServiceManager] = {}
        self.pool = stack.enter_context(ThreadPoolExecutor(1))
        for name in HOSTS:
            folder = rig.folder / f"{name}.service"
            folder.mkdir()
            export = f"127.0.0.1:{free_port()}"
            text = settings(rig.folder, name, rig.hosts, export, [self.target.url()], incoming=name != A)
            (folder / "agent.toml").write_text(text, encoding="utf-8")
            command = [sys.executable, "-m", "holdover", "agent", "--config", str(folder / "agent.toml")]
            manager = ServiceManager(command, own_environment(folder), folder)
            self.managers[name] = stack.enter_context(manager)
            manager.start()
            if name == A:
                secret = ChapSecrets(rig.folder / f"{name}.state").file(GUEST).read_text(encoding="ascii")
                url = f"iscsi://{GUEST}%{secret}@{export}/{export_iqn(GUEST)}/0"
        self.works("pr", "register", url, "--new-key", KEY, "--aptpl")
        self.works("pr", "reserve", url, "--key", KEY, "--type", "wero")

    # -- what the operator types ----------------------------------------------------------------------

    def type(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.rig.holdover(*arguments)

    def works(self, *arguments: str) -> str:
        done = self.type(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def handover(self, action: str, name: str = A) -> subprocess.CompletedProcess[str]:
        more = [] if action == "status" else ["--id", "h1"]
        more += ["--to", B] if action == "prepare" else []
        return self.type("handover", action, GUEST, "--at", self.rig.hosts[name].api, *more)

    def ends(self, action: str) -> None:
        """The operator types a command until it has succeeded, or until the handover is over.

        No agent answers while one is replaced. If the destination is replaced amid a commit, that rolls back.
        """
        until(
            lambda: self.handover(action).returncode == 0 or not self.is_open(A), lambda: self.shown(action)
        )

    def shown(self, action: str) -> str:
        done, state = self.handover(action), self.handover("status")
        return f"{action}: {done.stdout}{done.stderr}\n{state.stdout}{state.stderr}{self.logs()}"

    def logs(self) -> str:
        return "".join(f"\n== {name}\n{each.output}" for name, each in self.managers.items())

    # -- what is done to the agents -------------------------------------------------------------------

    def slow(self, action: str, initiator: str) -> None:
        fault = f"latency=5s,action={action},initiator=*:{initiator},count=1"
        self.works("target-ctl", str(self.control), "add", fault)

    def amid(self, action: str) -> Future[subprocess.CompletedProcess[str]]:
        """Begin a command; returns while the LUN has not answered what it was sent."""
        began = self.pool.submit(self.handover, action)
        until(lambda: '"event":"fault"' in self.target.process.output(), self.target.process.output)
        return began

    def replace(self, *names: str) -> None:
        """SIGUSR2: the successors of these agents are ready when this returns."""
        for name in names:
            self.managers[name].replace()

    # -- what must be true ----------------------------------------------------------------------------

    def is_where_it_says(self) -> str:
        """The host on which the handover has ended: the guest's commands pass there alone, which alone has
        its reservation."""
        until(lambda: not self.is_open(A) and not self.is_open(B), self.logs)
        name = {"gone": B, "stayed": A}[self.state()]
        status = json.loads(self.works("pr", "status", self.target.url(), "--json"))
        found = [(each["initiator"].partition(",")[0], each["holder"]) for each in status["registrants"]]
        assert found == [(f"iqn.2026-11.org.holdover:{name}", True)], self.logs()
        assert [each for each in HOSTS if self.gate(each) == "running"] == [name], self.logs()
        return name

    def state(self) -> str:
        shown = self.works("handover", "status", GUEST, "--at", self.rig.hosts[A].api, "--json")
        return str(json.loads(shown)["state"])

    def is_open(self, name: str) -> bool:
        done = self.type("handover", "status", GUEST, "--at", self.rig.hosts[name].api, "--json")
        return done.returncode != 0 or json.loads(done.stdout)["open"]

    def gate(self, name: str) -> str:
        shown = self.works("guest", "show", GUEST, "--at", self.rig.hosts[name].api, "--json")
        (guest,) = json.loads(shown)
        return str(guest["devices"][0]["gate"])


@pytest.fixture
def site(rig: Rig) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(rig, stack)


SIDES = ("source", "destination", "both")
AGENTS = {"source": (A,), "destination": (B,), "both": (A, B)}
ENDS = ("finish", "rollback")
"""What the operator types at the end; the guest is then on the destination, or on the source."""


@pytest.mark.parametrize("sides", some(SIDES, 3))
def test_while_a_handover_is_prepared(site: Site, sides: str) -> None:
    site.slow("REGISTER", B)
    began = site.amid("prepare")
    site.replace(*AGENTS[sides])
    began.result()
    for action in ("prepare", "commit", "finish"):
        site.ends(action)
    site.is_where_it_says()


@pytest.mark.parametrize(("sides", "end"), some(product(SIDES, ENDS), 3))
def test_while_a_handover_is_committed(site: Site, sides: str, end: str) -> None:
    site.ends("prepare")
    site.slow("PREEMPT", B)
    began = site.amid("commit")
    site.replace(*AGENTS[sides])
    began.result()
    if end == "finish":
        site.ends("commit")
    site.ends(end)
    assert site.is_where_it_says() == A or end == "finish"


@pytest.mark.parametrize(("sides", "end"), some(product(SIDES, ENDS), 6))
def test_between_the_steps(site: Site, sides: str, end: str) -> None:
    """Nothing is under way when the signal comes, so the handover goes on."""
    site.ends("prepare")
    site.replace(*AGENTS[sides])
    site.ends("commit")
    site.replace(*AGENTS[sides])
    site.ends(end)
    assert site.is_where_it_says() == (B if end == "finish" else A)


@pytest.mark.parametrize("sides", some(SIDES, 3))
def test_while_a_handover_is_rolled_back(site: Site, sides: str) -> None:
    site.ends("prepare")
    site.ends("commit")
    site.slow("PREEMPT", A)
    began = site.amid("rollback")
    site.replace(*AGENTS[sides])
    began.result()
    site.ends("rollback")
    assert site.is_where_it_says() == A
