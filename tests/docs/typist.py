"""Somebody who types the blocks of commands of a page, line by line, at a host of a test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.rig.hosts import Program, SeparateHost

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^( *)```sh[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_HANG = 1200.0


def lines_of(page: str, heading: str = "") -> Iterator[str]:
    """Each command of a page of docs/, or of one of its sections; a continued line is one."""
    text = (DOCS / page).read_text(encoding="utf-8")
    if heading:
        begin = re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE)
        assert begin is not None, heading
        text = text[begin.end() :]
        end = re.search(r"^## ", text, re.MULTILINE)
        text = text if end is None else text[: end.start()]
    for _, block in BLOCK.findall(text):
        if not block.startswith("#!"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.strip().startswith("#"):
                    yield line.strip()


class Typist:
    """Types commands as they stand in a page, with other names where the test's site has others.

    Attributes:
        said: By command: what it printed.
    """

    def __init__(
        self,
        folder: Path,
        names: Mapping[str, str],
        environment: Mapping[str, str],
        systemctl: Callable[[str], None] | None = None,
        host: SeparateHost | None = None,
    ) -> None:
        """``names``: what to replace in a page; ``systemctl`` does what the arguments of that command say.

        ``host``: where the commands are typed, in the folder ``folder`` of that host; None for this machine.
        """
        self._folder = folder
        self._names = dict(names)
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**os.environ, "PATH": path, **environment}
        self._systemctl = systemctl
        self._host = host
        self.said: dict[str, str] = {}

    def type(self, page: str, heading: str = "") -> None:
        """Type each command of a page, or of one of its sections."""
        for line in lines_of(page, heading):
            self.line(line)

    def line(self, line: str, *, fails: bool = False) -> str:
        """Type one command, which succeeds, or ``fails``; what it printed."""
        command = self.command(line)
        if command.startswith("systemctl ") and self._systemctl is not None:
            self._systemctl(command.removeprefix("systemctl "))
            return ""
        done = self._run(command)
        self.said[command] = done.stdout + done.stderr
        assert bool(done.returncode) is fails, f"{command}\n{self.said[command]}"
        return self.said[command]

    def begin(self, line: str) -> Program:
        """Type one command on a host, and do not wait for its end."""
        assert self._host is not None
        return self._host.spawn("bash", "-euc", self._in_folder(self.command(line)))

    def command(self, line: str) -> str:
        """A line without its comment, and with the names of the site."""
        command = line.partition("  #")[0].strip()
        for old, new in self._names.items():
            command = command.replace(old, new)
        return command

    def _run(self, command: str) -> subprocess.CompletedProcess[str]:
        if self._host is not None:
            return self._host.run("bash", "-euc", self._in_folder(command), timeout=_HANG)
        return subprocess.run(
            ["bash", "-euc", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_HANG,
            check=False,
        )

    def _in_folder(self, command: str) -> str:
        assert self._host is not None
        place = "" if self._host.has_own_root else f"export PATH={Path(sys.executable).parent}:$PATH\n"
        return f"cd {self._folder}\n{place}{command}"
