from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from holdover.scsi.cdbs.cdb import PersistentReserveIn
from holdover.scsi.status import Status
from tests.helper.client import HelperClient

READ_KEYS = PersistentReserveIn(0, 64).encode()
_LIMIT = 600.0


def command(*options: str | Path) -> list[str]:
    return [sys.executable, "-m", "holdover", "pr-helper", *map(str, options)]


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _LIMIT
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(path: Path) -> None:
    """A whole exchange; a device that is none is said to be out of reach."""
    with HelperClient(path) as client, Path(os.devnull).open("r+b") as null:
        assert client.run(null.fileno(), READ_KEYS).status == Status.CHECK_CONDITION


@contextlib.contextmanager
def started(arguments: list[str], stderr: int | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A helper that does not outlive the test, whatever happens."""
    with subprocess.Popen(arguments, stderr=stderr) as helper:
        try:
            yield helper
        finally:
            if helper.poll() is None:
                helper.kill()


def listens(path: Path) -> bool:
    """Whether somebody takes connections there: the file is there a little earlier."""
    with socket.socket(socket.AF_UNIX) as one, contextlib.suppress(OSError):
        one.connect(str(path))
        return True
    return False


def says(log: Path, word: str) -> bool:
    """Whether the word is in the log."""
    return word in log.read_text()


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_serves_until_a_signal_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    folder, said = tmp_path / "run", tmp_path / "log"
    folder.mkdir()
    path, pidfile = folder / "socket", folder / "pid"
    with (
        said.open("wb") as stderr,
        started(command("-k", path, "-f", pidfile, "-v"), stderr.fileno()) as helper,
    ):
        wait_for(pidfile.exists)
        wait_for(lambda: listens(path))
        answers(path)
        assert pidfile.read_text() == f"{helper.pid}\n"
        for idle in (signal.SIGUSR1, signal.SIGUSR2):
            helper.send_signal(idle)
            # of two signals that are pending, the one that ends it might come first
            wait_for(partial(says, said, idle.name))
            answers(path)
        helper.send_signal(number)
        helper.wait(timeout=_LIMIT)
    log = said.read_bytes()
    assert helper.returncode == 0
    assert (b"SIGHUP ends this process" in log) is (number == signal.SIGHUP)
    assert b"no SCSI device" in log
    assert list(folder.iterdir()) == []


def test_quiet_says_nothing_of_what_clients_do(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with started(command("-k", path, "-q"), stderr=subprocess.PIPE) as helper:
        wait_for(lambda: listens(path))
        answers(path)
        with HelperClient(path) as client:
            client.send(b"nonsense")
        helper.terminate()
        _, log = helper.communicate(timeout=_LIMIT)
    assert log == b""


def test_a_daemon_goes_on_without_the_terminal(tmp_path: Path) -> None:
    path, pidfile = tmp_path / "socket", tmp_path / "pid"
    done = subprocess.run(
        command("-d", "-k", path, "-f", pidfile.name), cwd=tmp_path, timeout=_LIMIT, check=False
    )
    assert done.returncode == 0
    wait_for(lambda: pidfile.exists() and pidfile.read_text().endswith("\n"))
    daemon = int(pidfile.read_text())
    try:
        answers(path)
        assert os.getsid(daemon) != os.getsid(0)
        assert Path(f"/proc/{daemon}/cwd").resolve() == Path("/")
        assert Path(f"/proc/{daemon}/fd/2").resolve() == Path(os.devnull)
    finally:
        os.kill(daemon, signal.SIGTERM)
    wait_for(lambda: not running(daemon))
    assert not path.exists()
    assert not pidfile.exists()


ACTIVATE = """
import os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"}
os.execv(sys.executable, [sys.executable, "-m", "holdover", "pr-helper", *sys.argv[2:]])
"""


def test_the_socket_of_systemd_is_served_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with started([sys.executable, "-c", ACTIVATE, str(path)]) as helper:
        wait_for(lambda: listens(path))
        answers(path)
        helper.terminate()
        assert helper.wait(_LIMIT) == 0
    assert path.exists(), "it is systemd's"


def test_a_socket_of_its_own_beside_that_of_systemd_is_refused(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ACTIVATE, str(tmp_path / "socket"), "-k", "/tmp/other"],
        capture_output=True,
        text=True,
        timeout=_LIMIT,
        check=False,
    )
    assert done.returncode == 2
    assert "systemd has opened the socket already" in done.stderr


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-T", "enable=*"), "-T: there are no trace events"),
        (("-k", "relative"), "must be absolute"),
        (("-k", "/nowhere/at/all"), "No such file"),
        (("-k", "/nowhere/x", "-u", "nobody-of-this-name"), "there is no user 'nobody-of-this-name'"),
        (("-k", "/nowhere/x", "-g", "nobody-of-this-name"), "there is no group 'nobody-of-this-name'"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(options: tuple[str, ...], words: str) -> None:
    done = subprocess.run(command(*options), capture_output=True, text=True, timeout=_LIMIT, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_second_helper_does_not_take_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        done = subprocess.run(
            command("-k", path), capture_output=True, text=True, timeout=_LIMIT, check=False
        )
    assert done.returncode == 2
    assert "somebody listens there already" in done.stderr
