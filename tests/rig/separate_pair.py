"""Two separate hosts, and a guest with a reservation that moves between them, for many tests."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from holdover.api.migration_documents import MigrationState
from tests.rig.hosts import until
from tests.rig.separate_guest import SeparateGuest
from tests.rig.separate_site import separate_site

KEY = 0xABC
IQN = "iqn.2026-11.org.example:"
SIDES = ("host-a", "host-b")


class Pool:
    """A site for several tests, since it takes long to set up; a test that fails has been its last."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number = 0
        self._stack = contextlib.ExitStack()
        self._guest: SeparateGuest | None = None

    def guest(self) -> SeparateGuest:
        if self._guest is None:
            self._number += 1
            folder = self._folder / str(self._number)
            site = self._stack.enter_context(separate_site(folder, *SIDES))
            site.begin()
            self._guest = SeparateGuest(site)
            self._guest.start("host-a")
            site.guest("host-a", "register", "--new-key", hex(KEY), "--aptpl")
            site.guest("host-a", "reserve", "--key", hex(KEY), "--type", "5")
        return self._guest

    def end(self) -> None:
        self._guest = None
        self._stack.close()


@dataclass(frozen=True)
class Pair:
    """The guest runs on ``here`` and holds a reservation; a QEMU on ``there`` waits for it."""

    guest: SeparateGuest
    here: str
    there: str

    def migrate(self, *options: str) -> subprocess.CompletedProcess[str]:
        return self.guest.migrate(self.here, self.there, *options)

    def reaches(self, *phases: str) -> MigrationState:
        return self.guest.reaches(self.here, *phases)

    def restart_agent(self, name: str, **environment: str) -> None:
        self.guest.site.agents[name].kill()
        self.guest.site.start_agent(name, **environment)

    def at_home_on(self, name: str) -> None:
        """The guest runs on one host alone, and its reservation is there and nowhere else."""
        held = {f"{IQN}{name}": (KEY, True)}
        until(lambda: self.guest.site.registrants() == held, f"the reservation is not on {name} alone")
        assert self.guest.running_on() == [name]

    def ends_on_one_host(self) -> MigrationState:
        state = self.reaches("moved", "stayed")
        self.at_home_on(self.there if state.moved else self.here)
        return state

    def ends_soundly(self) -> None:
        """The guest runs on one host with its reservation; or its QEMU there is gone, and the end says so."""
        state = self.reaches("moved", "stayed")
        at = self.there if state.moved else self.here
        if self.guest.state(at) != "none":
            self.at_home_on(at)
            return
        assert self.guest.running_on() == []
        assert "does not run" in state.now
        assert state.next == f"start its QEMU on {at}"
        held = {f"{IQN}{at}": (KEY, True)}
        until(lambda: self.guest.site.registrants() == held, f"the reservation is not on {at} alone")
