"""The CHAP secrets of exports, in real files, and what becomes of these while no agent runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

from holdover.agent.host import Host
from tests.simulation.clockwork import Broken

_LIKELY = 0.15


class Secrets:
    """The secrets of one host's exports.

    Attributes:
        told: The secret by which each guest logs in.
    """

    def __init__(self, host: str, folder: Path | None, random: Random) -> None:
        """``folder`` is the state folder of the agent; None if it exports nothing."""
        self.told: dict[str, str | None] = {}
        self._host = host
        self._folder = None if folder is None else folder / "secrets"
        self._random = random
        self._spoiled: frozenset[str] = frozenset()

    def spoil(self) -> None:
        """Perhaps somebody does something to the files before the agent starts."""
        if self._folder is None or not self.told or self._spoiled or self._random.random() > _LIKELY:
            return
        spoil: Callable[[Path], None] = self._random.choice(
            (_open_to_all, _shorten, _replace, _link, Path.unlink)
        )
        for file in sorted(self._folder.iterdir()):
            spoil(file)
        if spoil is not Path.unlink:
            self._spoiled = frozenset(self.told)
        self.told.clear()

    def mend(self) -> None:
        """Do what the agent says that it needs: remove the files."""
        assert self._folder is not None
        self._spoiled = frozenset()
        for file in self._folder.iterdir():
            if file.is_dir():
                file.rmdir()
            else:
                file.unlink()

    def require_kept(self, host: Host) -> None:
        """The agent has started: nobody else knows its secrets, and each guest has the same one as before."""
        if self._folder is None:
            return
        if self._spoiled & host.guests.keys():
            raise Broken(f"{self._host}: the agent has started with a secret that is none")
        for name, guest in host.guests.items():
            found = host.export_secret(guest)
            if found is None:
                continue
            secret = found.secret
            if self.told.setdefault(name, secret) != secret or not secret:
                raise Broken(f"{self._host}: guest {name} has got another secret")


def _open_to_all(file: Path) -> None:
    file.chmod(0o644)


def _shorten(file: Path) -> None:
    file.write_text("short")


def _replace(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _link(file: Path) -> None:
    file.unlink()
    file.symlink_to("elsewhere")
