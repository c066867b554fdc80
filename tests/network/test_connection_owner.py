from __future__ import annotations

import os
import socket

import pytest

from holdover.network.connection_owner import owner_of, party_of
from tests.security.local_user import NOBODY, needs_root, program_of

CONNECT = """
client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print("there", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_connection_of_this_host_is_its_users(family: socket.AddressFamily, address: str) -> None:
    with socket.create_server((address, 0), family=family) as listener:
        at = listener.getsockname()
        with socket.create_connection(at[:2]), listener.accept()[0] as connection:
            assert party_of(connection) == f"uid {os.getuid()}"
            # this is no connection: the kernel finds the listening socket
            assert owner_of(family, at, connection.getsockname()) is None


def test_a_connection_that_its_user_has_closed_is_nobodys() -> None:
    """Of such a socket the kernel says that it is root's: that would take root's share."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        with listener.accept()[0] as connection:
            client.close()
            assert connection.recv(1) == b""
            assert party_of(connection) == "address 127.0.0.1"


@needs_root
def test_another_user_is_told_apart() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        program_of(CONNECT, "127.0.0.1", str(listener.getsockname()[1])) as program,
    ):
        assert program.stdout is not None
        assert program.stdout.readline() == "there\n"
        with listener.accept()[0] as connection:
            assert party_of(connection) == f"uid {NOBODY}"


def test_another_hosts_connection_is_its_addresses() -> None:
    assert owner_of(socket.AF_INET, ("192.0.2.1", 5000), ("192.0.2.2", 3260)) is None


def test_a_connection_that_has_gone_is_nobodys() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        connection, _ = listener.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        with connection:
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
            with pytest.raises(OSError, match="not connected"):
                party_of(connection)
