from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.helper.listener import ListenerError, activated, listen, resolve_group


def connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(str(path)) == 0


def test_a_listener_takes_connections_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = listen(path)
    assert not listener.socket.getblocking()
    assert not listener.socket.get_inheritable()
    assert connects(path)
    listener.close()
    assert not path.exists()


def test_mode_and_group_are_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = listen(path, 0o660, os.getgid())
    found = path.stat()
    assert stat.S_IMODE(found.st_mode) == 0o660
    assert found.st_gid == os.getgid()
    listener.close()


def test_without_a_mode_the_umask_counts(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for number, group in enumerate((None, os.getgid())):
            path = tmp_path / f"socket{number}"
            listener = listen(path, None, group)
            assert stat.S_IMODE(path.stat().st_mode) == 0o750
            listener.close()
        assert os.umask(0o027) == 0o027, "put back"
    finally:
        os.umask(before)


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listen(path).socket.close()
    assert path.exists()
    assert not connects(path)
    listener = listen(path)
    assert connects(path)
    listener.close()


def test_a_socket_in_use_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = listen(path)
    with pytest.raises(ListenerError, match="somebody listens there already"):
        listen(path)
    assert connects(path)
    first.close()


def test_a_file_is_not_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ListenerError, match="no socket"):
        listen(path)
    assert path.read_text() == "data"


def test_closing_leaves_the_socket_of_a_successor(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    first = listen(path)
    path.unlink()
    second = listen(path)
    first.close()
    assert connects(path)
    second.close()


@pytest.mark.parametrize("name", ["missing/socket", "long" * 40])
def test_what_the_system_refuses_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(ListenerError, match=name[:10]):
        listen(tmp_path / name)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"},
    ],
)
def test_what_is_not_meant_for_this_process_is_not_taken(environment: dict[str, str]) -> None:
    assert activated(environment) is None
    assert environment == {}


ACTIVATED = """
import os, socket, sys
from pathlib import Path
from holdover.helper.listener import ListenerError, activated
kind, count = sys.argv[1], sys.argv[2]
made = socket.socket(*{"unix": (socket.AF_UNIX,), "udp": (socket.AF_INET, socket.SOCK_DGRAM)}[kind])
if kind == "unix":
    made.bind("\\0holdover-test-%d" % os.getpid())
    made.listen()
if made.fileno() != 3:
    os.dup2(made.fileno(), 3)
environment = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count, "LISTEN_FDNAMES": "a"}
try:
    listener = activated(environment)
except ListenerError as error:
    print(error)
else:
    print(listener.socket.fileno(), listener.socket.get_inheritable(), listener.path, environment)
"""


@pytest.mark.parametrize(
    ("kind", "count", "says"),
    [
        ("unix", "1", "3 False None {}"),
        ("unix", "2", "LISTEN_FDS: 2 sockets; this listens at one"),
        ("udp", "1", "LISTEN_FDS: descriptor 3 is no listening Unix stream socket"),
    ],
)
def test_the_socket_of_systemd_is_taken(kind: str, count: str, says: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ACTIVATED, kind, count], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == says, done.stderr


def test_a_group_has_a_name_or_a_number() -> None:
    mine = grp.getgrgid(os.getgid())
    assert resolve_group(mine.gr_name) == mine.gr_gid
    assert resolve_group("12345") == 12345
    with pytest.raises(ValueError, match="no group 'nobody-of-this-name'"):
        resolve_group("nobody-of-this-name")
