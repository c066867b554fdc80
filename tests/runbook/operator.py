"""An operator with the runbook: sees what a command or the log says, and finds the topic that it names."""

from __future__ import annotations

import signal
import subprocess
import time

from tests.rig.agents import RealAgent, real_agents
from tests.rig.forked import ForkedHoldover
from tests.rig.processes import Rig

KEY = "0xdb1"
_PATIENCE = 600.0


def told(done: subprocess.CompletedProcess[str], topic: str) -> None:
    """A command has failed and has named that topic, which `holdover explain` takes."""
    assert done.returncode != 0, done.stdout
    assert f"holdover explain {topic}\n" in done.stderr, done.stderr


class Site:
    """Two hosts that know each other, and a guest that may be on either."""

    def __init__(self, rig: Rig, luns: int = 1) -> None:
        self.rig = rig
        self.target = rig.target(luns=luns)
        self.agents = real_agents(rig, "db1", [self.target.url(lun) for lun in range(luns)])

    @property
    def a(self) -> RealAgent:
        """The host on which the guest runs."""
        return self.agents["host-a"]

    @property
    def b(self) -> RealAgent:
        """The other host."""
        return self.agents["host-b"]

    def start(self, *names: str) -> None:
        """Start the agents of these hosts, or of both."""
        for name in names or self.agents:
            self.agents[name].start()

    def text(self, name: str, old: str, new: str) -> None:
        """Edit the file of a host's agent."""
        file = self.rig.folder / f"{name}.toml"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    def reload(self, name: str) -> None:
        """What `systemctl reload` does."""
        self.process(name).send_signal(signal.SIGHUP)

    def process(self, name: str) -> subprocess.Popen[bytes] | ForkedHoldover:
        """The newest process of that name."""
        return next(each for each in reversed(self.rig.processes) if each.name == name).popen

    def logged(self, name: str, words: str) -> None:
        """Wait until the newest agent of a host has logged that."""
        end = time.monotonic() + _PATIENCE
        process = next(each for each in reversed(self.rig.processes) if each.name == name)
        while words not in process.output():
            assert time.monotonic() < end, process.output()
            assert process.popen.poll() is None, process.output()
            time.sleep(0.02)

    def type(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Type a command."""
        return self.rig.holdover(*arguments)

    def works(self, *arguments: str) -> str:
        """Type a command that succeeds."""
        done = self.type(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def prepare(self, *more: str, to: str = "host-b") -> subprocess.CompletedProcess[str]:
        """`holdover handover prepare` at the guest's host."""
        return self.type("handover", "prepare", "db1", "--at", self.a.api, "--to", to, *more)

    def register(self) -> None:
        """The guest registers its key and takes the reservation."""
        self.works("pr", "register", self.a.url(), "--new-key", KEY, "--aptpl")
        self.works("pr", "reserve", self.a.url(), "--key", KEY, "--type", "wero")
