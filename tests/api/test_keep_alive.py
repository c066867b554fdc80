"""Connections that stay."""

from __future__ import annotations

import socket

from holdover.api.keep_alive import AGENT_SECONDS, CLIENT_SECONDS, keep_alive


def test_a_client_lets_go_first() -> None:
    assert CLIENT_SECONDS < AGENT_SECONDS


def test_what_a_listener_accepts_is_kept_alive() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        keep_alive(listener)
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
            with accepted:
                assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
