"""The iSCSI targets that are compared, each a process of its own that serves files."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdover.demo.processes import free_port

TARGET_IQN = "iqn.2026-11.org.holdover:bench"
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """A target program.

    Attributes:
        name: The name in the tables.
        program: The program that must be installed; None for our own.
        package: The Debian package of that program.
        lun: The number of its first LUN that is a disk.
    """

    name: str
    program: str | None
    package: str
    lun: int

    @property
    def missing(self) -> bool:
        """Whether the program is not installed."""
        return self.program is not None and shutil.which(self.program) is None


@dataclass(frozen=True, slots=True)
class Served:
    """A running target: the port at which it listens, and its process."""

    port: int
    pid: int


SERVERS = (Server("holdover", None, "", 0), Server("tgt", "tgtd", "tgt", 1))


@contextmanager
def serve(server: Server, file: Path) -> Iterator[str]:
    """Serve ``file`` until the block ends; yield the LUN's iscsi:// URL."""
    with serve_luns(server, [file]) as served:
        yield f"iscsi://127.0.0.1:{served.port}/{TARGET_IQN}/{server.lun}"


@contextmanager
def serve_luns(server: Server, files: Sequence[Path]) -> Iterator[Served]:
    """Serve files as the LUNs from ``server.lun`` on until the block ends."""
    port = free_port()
    run = _tgt if server.program == "tgtd" else _holdover
    with run(files, port) as pid:
        yield Served(port, pid)


@contextmanager
def _holdover(files: Sequence[Path], port: int) -> Iterator[int]:
    command = [
        sys.executable,
        "-m",
        "holdover",
        "target",
        "--listen",
        f"127.0.0.1:{port}",
        "--iqn",
        TARGET_IQN,
    ]
    for file in files:
        command += ["--lun", f"file={str(file).replace(',', ',,')}"]
    with running(command, (port,)) as pid:
        yield pid


@contextmanager
def _tgt(files: Sequence[Path], port: int) -> Iterator[int]:
    # The control port names a Unix socket. It must not be the socket of another tgtd on this machine.
    control = str(port)
    admin = ["tgtadm", "-C", control, "--lld", "iscsi", "--mode"]
    # The serial number makes the designator, which must differ from those of other targets' LUNs.
    luns = [
        [
            ["logicalunit", "--op", "new", "--tid", "1", "--lun", str(lun), "--backing-store", str(file)],
            [
                "logicalunit",
                "--op",
                "update",
                "--tid",
                "1",
                "--lun",
                str(lun),
                "--params",
                f"scsi_sn={control}-{lun}",
            ],
        ]
        for lun, file in enumerate(files, 1)
    ]
    with running(["tgtd", "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"], (port,)) as pid:
        for arguments in (
            ["target", "--op", "new", "--tid", "1", "--targetname", TARGET_IQN],
            *(command for commands in luns for command in commands),
            ["target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL"],
        ):
            subprocess.run([*admin, *arguments], check=True, capture_output=True)
        yield pid


@contextmanager
def running(
    command: list[str],
    ports: tuple[int, ...],
    log: Path = Path(os.devnull),
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a process that listens at ``ports`` of 127.0.0.1, until the block ends; yield its id.

    It is in a session of its own: an interrupt at the terminal is for the benchmark, which then ends it.

    Raises:
        RuntimeError: The process does not listen; the message has what it wrote into ``log``.
    """
    with log.open("wb") as output:
        # setpriv (util-linux) ends the process if the benchmark is killed.
        whole = ["setpriv", "--pdeathsig", "TERM", *command]
        process = subprocess.Popen(
            whole, stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _START_SECONDS
        for port in ports:
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    said = log.read_text(errors="replace")
                    raise RuntimeError(f"{' '.join(command)} does not listen at port {port}: {said}")
                time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
