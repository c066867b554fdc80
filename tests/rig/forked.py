"""`holdover` as a process of its own whose modules are there already, when it starts.

To import them takes the better part of a second of processor time, and the tests start many hundreds of
programs. So a fork server imports them once for each worker. What it forks is as separate as any process: it
has its own pid, environment, working directory and output, and dies by the same signals.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path
from types import ModuleType

MODULES = (
    "aiohttp",  # what a command asks an agent with, imported when it does
    "holdover.agent.api_server",
    "holdover.agent.monitoring.monitor",
    "holdover.cli.daemons.agent",
    "holdover.cli.daemons.target",
    "holdover.cli.daemons.target_ctl",
    "holdover.cli.guest.guest",
    "holdover.cli.handover.handover",
    "holdover.cli.journal.journal",
    "holdover.cli.migrate.following",
    "holdover.cli.migrate.migrate",
    "holdover.cli.migrate.migrating",
    "holdover.cli.pr.pr",
    "holdover.cli.status",
    "holdover.pki.authority",
    "typer._adapters",  # with pydantic, at the first command line that it parses
)
"""What most programs import; the fork server imports it once."""


class ForkedHoldover:
    """One `holdover` under way; what is here of `subprocess.Popen` means the same."""

    def __init__(
        self, arguments: Sequence[str], *, cwd: Path, env: Mapping[str, str], stdout: Path, stderr: Path
    ) -> None:
        """Start it. What it writes is added to two files, which may be one."""
        outputs = (str(stdout), str(stderr))
        # a daemon in the sense of multiprocessing: it does not outlive the tests
        self._process = _fork_server().Process(
            target=_run, args=(list(arguments), str(cwd), dict(env), *outputs), daemon=True
        )
        with _empty_main():
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it has ended, or -N where signal N has ended it."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """How it ends."""
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired("holdover", timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, unless it has ended."""
        self._process.terminate()

    def kill(self) -> None:
        """Send SIGKILL, unless it has ended."""
        self._process.kill()


@contextmanager
def _empty_main() -> Iterator[None]:
    """While a process starts, `__main__` is empty: multiprocessing imports it again in every process."""
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@cache
def _fork_server() -> ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.rig.preloaded"])
    return context


def _run(arguments: list[str], folder: str, environment: dict[str, str], output: str, errors: str) -> None:
    """In the new process: become `holdover`."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in ((1, output), (2, errors)):
        opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.argv = ["holdover", *arguments]
    from holdover.cli.main import main

    main()
