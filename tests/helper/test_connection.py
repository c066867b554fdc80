from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.helper.clients import ClientPlace
from holdover.helper.connection import Connection, Peer
from holdover.helper.listener import listen
from holdover.helper.process import start_time
from tests.helper.serving import plenty

CONNECT = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])"


def place() -> ClientPlace:
    taken, _ = plenty().enter(os.getpid(), os.getuid())
    assert taken is not None
    return taken


def knows_processes() -> bool:
    """Whether this kernel has SO_PEERPIDFD (Linux 6.5)."""
    here, there = socket.socketpair()
    with here, there:
        try:
            os.close(here.getsockopt(socket.SOL_SOCKET, 77))
        except OSError:
            return False
    return True


def test_a_client_is_known_by_the_start_of_its_process() -> None:
    here, there = socket.socketpair()
    with there:
        connection = Connection(here, 1, place())
        peer = connection.peer
        assert peer.pid == os.getpid()
        assert peer.started == (start_time(os.getpid()) if knows_processes() else None)
        assert peer.is_process(start_time(os.getpid()))
        connection.close()


@pytest.mark.skipif(not knows_processes(), reason="SO_PEERPIDFD is there since Linux 6.5")
def test_a_client_that_ended_before_it_was_accepted_is_no_process(tmp_path: Path) -> None:
    """By its number alone a later process would be taken for it."""
    listener = listen(tmp_path / "socket")
    subprocess.run([sys.executable, "-S", "-c", CONNECT, str(tmp_path / "socket")], check=True)
    client, _ = listener.socket.accept()
    connection = Connection(client, 1, place())
    assert not connection.peer.is_process(start_time(os.getpid()))
    assert not connection.peer.is_process(0.0)
    connection.close()
    listener.close()


def test_a_process_is_told_from_another_one_of_its_number() -> None:
    exact = Peer(7, 0, 0, since=20.0, started=10.0)
    assert exact.is_process(10.0)
    assert not exact.is_process(9.0)
    assert not exact.is_process(10.01)
    by_time = Peer(7, 0, 0, since=20.0)
    assert by_time.is_process(20.0)
    assert not by_time.is_process(20.01)
