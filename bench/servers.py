"""The iSCSI targets that are compared, each a process of its own that serves one file."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holdover.demo.processes import free_port

__all__ = ["SERVERS", "Server", "serve"]

IQN = "iqn.2026-11.org.holdover:bench"
_START_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A target program.

    Attributes:
        name: As the tables show it.
        program: What must be installed; None for our own.
        package: The Debian package of that program.
        lun: The number of its first LUN that is a disk.
    """

    name: str
    program: str | None
    package: str
    lun: int

    @property
    def missing(self) -> bool:
        """Whether it is not installed."""
        return self.program is not None and shutil.which(self.program) is None


SERVERS = (Server("holdover", None, "", 0), Server("tgt", "tgtd", "tgt", 1))


@contextmanager
def serve(server: Server, file: Path) -> Iterator[str]:
    """Serve ``file`` until the block ends; gives the LUN's iscsi:// URL."""
    port = free_port()
    run = _tgt if server.program == "tgtd" else _holdover
    with run(file, port):
        yield f"iscsi://127.0.0.1:{port}/{IQN}/{server.lun}"


@contextmanager
def _holdover(file: Path, port: int) -> Iterator[None]:
    lun = f"file={str(file).replace(',', ',,')}"
    command = [sys.executable, "-m", "holdover", "target", "--listen", f"127.0.0.1:{port}", "--iqn", IQN]
    with _process([*command, "--lun", lun], port):
        yield


@contextmanager
def _tgt(file: Path, port: int) -> Iterator[None]:
    # the control port names a Unix socket: one of our own, beside any tgtd that the machine runs
    control = str(port)
    admin = ["tgtadm", "-C", control, "--lld", "iscsi", "--mode"]
    with _process(["tgtd", "-f", "-C", control, "--iscsi", f"portal=127.0.0.1:{port}"], port):
        for arguments in (
            ["target", "--op", "new", "--tid", "1", "--targetname", IQN],
            ["logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "--backing-store", str(file)],
            ["target", "--op", "bind", "--tid", "1", "--initiator-address", "ALL"],
        ):
            subprocess.run([*admin, *arguments], check=True, capture_output=True)
        yield


@contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} does not listen at port {port}")
            time.sleep(0.05)
        yield
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
