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
from tempfile import TemporaryDirectory
from typing import Any

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.demo.hosts import CertifiedHost, certified_hosts
from holdover.demo.processes import free_port
from tests.rig.forked import ForkedHoldover

__all__ = ["GUEST_IQN", "HOSTS", "Agent", "Process", "Rig", "Target", "free_port"]

HOSTS = ("host-a", "host-b")
"""The hosts whose agents a rig can start; each is the other's peer."""

GUEST_IQN = "iqn.2026-11.org.holdover:guest."
"""Before a guest's name: the iSCSI name under which an agent exports its devices."""

_START_TIMEOUT = 600.0
"""Only a program that hangs reaches it, as with the other limits of this rig."""
_END_TIMEOUT = 600.0


@dataclass(frozen=True, slots=True)
class Process:
    """One running program, and the file that takes its output."""

    name: str
    popen: subprocess.Popen[bytes] | ForkedHoldover
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
    """A `holdover agent` with one guest.

    Attributes:
        api: The Unix socket of operators.
        secret_file: Holds the secret of the guest's export.
    """

    process: Process
    api: str
    export_port: int
    guest: str
    initiator: str
    secret_file: Path

    @property
    def portal(self) -> str:
        """Where it exports the guest's devices."""
        return f"127.0.0.1:{self.export_port}"

    @property
    def iqn(self) -> str:
        """The iSCSI name of what it exports."""
        return GUEST_IQN + self.guest

    def url(self, lun: int = 0) -> str:
        """The URL of one of the guest's devices, with the secret."""
        secret = self.secret_file.read_text(encoding="ascii")
        return f"iscsi://{self.guest}%{secret}@{self.portal}/{self.iqn}/{lun}"


class Rig:
    """Starts programs for one test and ends them afterwards; all that they write stays in `folder`."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the test's own."""
        self.folder = folder
        self.processes: list[Process] = []
        self._hosts: dict[str, CertifiedHost] = {}

    @property
    def hosts(self) -> dict[str, CertifiedHost]:
        """The certificates, sockets and addresses of `HOSTS`."""
        if not self._hosts:
            self._hosts = certified_hosts(self.folder, HOSTS)
        return self._hosts

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
        machine_type: str = "pc",
        migrate_pr: bool | None = True,
        incoming: bool = False,
        prefix: Sequence[str] = (),
    ) -> Agent:
        """Start a `holdover agent` for one guest and wait until all its front ends take connections.

        The guest has a device for each URL in `drives`. `migrate_pr` None leaves that to the machine type.
        `prefix` is a command that runs it.
        """
        host, export = self.hosts[name], free_port()
        initiator = f"iqn.2026-11.org.holdover:{name}"
        arguments = ["agent", "--name", name, *host.options(self.hosts), "--initiator", initiator]
        arguments += ["--guest", guest, "--machine", machine_type, "--export", f"127.0.0.1:{export}"]
        state = self.folder / f"{name}.state"
        arguments += ["--state-dir", str(state)]
        choice = "" if migrate_pr is None else f",migrate-pr={'on' if migrate_pr else 'off'}"
        for number, drive in enumerate(drives):
            arguments += ["--device", f"scsi-block,id=disk{number},drive={drive}{choice}"]
        if incoming:
            arguments.append("--incoming")
        ports: list[int | str] = [host.api, host.address, export]
        process = self.start(name, arguments, ports=ports, prefix=prefix)
        return Agent(process, host.api, export, guest, initiator, ChapSecrets(state).file(guest))

    def holdover(self, *arguments: str, timeout: float = 600.0) -> subprocess.CompletedProcess[str]:
        """Run one command to its end; whether it succeeded is the caller's to look at."""
        with TemporaryDirectory(prefix="said-", dir=self.folder) as folder:
            said, errors = Path(folder, "stdout"), Path(folder, "stderr")
            process = ForkedHoldover(
                arguments, cwd=self.folder, env=self._environment(), stdout=said, stderr=errors
            )
            try:
                status = process.wait(timeout)
            finally:
                process.kill()
                process.wait()
            return subprocess.CompletedProcess(
                ["holdover", *arguments], status, said.read_text("utf-8"), errors.read_text("utf-8")
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
        ports: Sequence[int | str],
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> Process:
        """Start a command that stays, and wait until every one of `ports` takes connections.

        A port is a number on 127.0.0.1, HOST:PORT or unix:PATH. `environment` is what it has besides that of
        the test, `prefix` a command that runs it.
        """
        log = self.folder / f"{len(self.processes)}-{name}.log"
        env = self._environment() | dict(environment or {})
        popen: subprocess.Popen[bytes] | ForkedHoldover
        if prefix:
            with log.open("wb") as output:
                popen = subprocess.Popen(
                    [*prefix, *_holdover(), *arguments],
                    cwd=self.folder,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
        else:
            log.touch()
            popen = ForkedHoldover(arguments, cwd=self.folder, env=env, stdout=log, stderr=log)
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


def _takes_connections(port: int | str) -> bool:
    at: str | tuple[str, int]
    family = socket.AF_INET
    if isinstance(port, int):
        at = ("127.0.0.1", port)
    elif port.startswith("unix:"):
        family, at = socket.AF_UNIX, port.removeprefix("unix:")
    else:
        host, _, number = port.rpartition(":")
        at = (host, int(number))
    with socket.socket(family) as attempt:
        attempt.settimeout(1.0)
        return attempt.connect_ex(at) == 0
