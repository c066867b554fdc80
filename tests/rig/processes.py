"""Holdover's own programs as real processes over loopback: started, awaited, ended by pid."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from holdover.demo.processes import free_port

__all__ = ["GUEST_IQN", "Agent", "Process", "Rig", "Target", "free_port"]

GUEST_IQN = "iqn.2026-11.org.holdover:guest."
"""Before a guest's name: the iSCSI name under which an agent exports its devices."""

_START_TIMEOUT = 20.0
_END_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """One running program, and the file that takes its output."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """End it, by force where it does not listen; nothing where it has ended."""
        if self.popen.poll() is None:
            self.popen.terminate()
        try:
            self.popen.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()


@dataclass(frozen=True, slots=True)
class Target:
    """A `holdover target`."""

    process: Process
    port: int
    iqn: str
    files: tuple[Path, ...]

    def url(self, lun: int = 0) -> str:
        """The URL of one of its logical units."""
        return f"iscsi://127.0.0.1:{self.port}/{self.iqn}/{lun}"


@dataclass(frozen=True, slots=True)
class Agent:
    """A `holdover agent` with one guest."""

    process: Process
    api: str
    export_port: int
    guest: str
    initiator: str

    @property
    def portal(self) -> str:
        """Where it exports the guest's devices."""
        return f"127.0.0.1:{self.export_port}"

    @property
    def iqn(self) -> str:
        """The iSCSI name of what it exports."""
        return GUEST_IQN + self.guest

    def url(self, lun: int = 0) -> str:
        """The URL of one of the guest's devices."""
        return f"iscsi://{self.portal}/{self.iqn}/{lun}"


class Rig:
    """Starts programs for one test and ends them afterwards; all that they write stays in `folder`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the test's own."""
        self.folder = folder
        self.processes: list[Process] = []

    def target(self, *, luns: int = 1, size: str = "64M", options: Sequence[str] = ()) -> Target:
        """Start a `holdover target` with new logical units, and wait until it takes connections."""
        number = len(self.processes)
        port = free_port()
        iqn = f"iqn.2026-11.org.holdover:target{number}"
        files = tuple(self.folder / f"target{number}-lun{lun}" for lun in range(luns))
        arguments = ["target", "--listen", f"127.0.0.1:{port}", "--iqn", iqn]
        for file in files:
            arguments += ["--lun", f"file={file},size={size}"]
        arguments += options
        return Target(self.start("target", arguments, ports=[port]), port, iqn, files)

    def again(self, target: Target) -> Target:
        """The same target once more, after it has ended: with its address and its files."""
        arguments = ["target", "--listen", f"127.0.0.1:{target.port}", "--iqn", target.iqn]
        for file in target.files:
            arguments += ["--lun", f"file={file}"]
        return replace(target, process=self.start("target", arguments, ports=[target.port]))

    def agent(
        self,
        name: str,
        *,
        guest: str,
        drives: Sequence[str],
        machine: str = "pc",
        migrate_pr: bool | None = True,
        incoming: bool = False,
    ) -> Agent:
        """Start a `holdover agent` for one guest and wait until both its ports take connections.

        The guest has a device for each URL in `drives`. `migrate_pr` None leaves that to the machine type.
        """
        api, export = free_port(), free_port()
        initiator = f"iqn.2026-11.org.holdover:{name}"
        arguments = ["agent", "--name", name, "--api", f"127.0.0.1:{api}", "--initiator", initiator]
        arguments += ["--guest", guest, "--machine", machine, "--export", f"127.0.0.1:{export}"]
        choice = "" if migrate_pr is None else f",migrate-pr={'on' if migrate_pr else 'off'}"
        for number, drive in enumerate(drives):
            arguments += ["--device", f"scsi-block,id=disk{number},drive={drive}{choice}"]
        if incoming:
            arguments.append("--incoming")
        process = self.start(name, arguments, ports=[api, export])
        return Agent(process, f"127.0.0.1:{api}", export, guest, initiator)

    def holdover(self, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; whether it succeeded is the caller's to look at."""
        return subprocess.run(
            [*_holdover(), *arguments],
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def holdover_json(self, *arguments: str) -> Any:
        """Run one command that has to succeed, with `--json`, and give what it printed."""
        done = self.holdover(*arguments, "--json")
        assert done.returncode == 0, f"holdover {' '.join(arguments)}: {done.stdout}{done.stderr}"
        return json.loads(done.stdout)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        ports: Sequence[int],
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        """Start a command that stays, and wait until every one of `ports` takes connections.

        `environment` is what it has besides that of the test.
        """
        log = self.folder / f"{len(self.processes)}-{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [*_holdover(), *arguments],
                cwd=self.folder,
                env=self._environment() | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        process = Process(name, popen, log)
        self.processes.append(process)
        deadline = time.monotonic() + _START_TIMEOUT
        for port in ports:
            while not _takes_connections(port):
                assert popen.poll() is None, f"{name} ended with {popen.returncode}:\n{process.output()}"
                assert time.monotonic() < deadline, f"{name} does not listen on {port}:\n{process.output()}"
                time.sleep(0.05)
        return process

    def end(self) -> None:
        """End everything, those first that stand on others."""
        for process in reversed(self.processes):
            process.end()

    def _environment(self) -> dict[str, str]:
        # What the programs keep beyond their end is the test's alone.
        homes = {"XDG_STATE_HOME": "state", "XDG_DATA_HOME": "data", "XDG_RUNTIME_DIR": "run"}
        return {**os.environ, **{variable: str(self.folder / place) for variable, place in homes.items()}}


def _holdover() -> list[str]:
    script = Path(sys.executable).with_name("holdover")
    return [str(script)] if script.exists() else [sys.executable, "-m", "holdover"]


def _takes_connections(port: int) -> bool:
    with socket.socket() as attempt:
        attempt.settimeout(1.0)
        return attempt.connect_ex(("127.0.0.1", port)) == 0
