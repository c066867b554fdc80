"""How long a connection to an agent may be silent.

A guest stands still while one message goes between agents. Their connection was opened long before, when the
copy of the guest's memory began. It must still be open, so that neither TCP nor TLS makes a handshake while
the guest waits.
"""

from __future__ import annotations

import socket

AGENT_SECONDS = 24 * 3600
"""The seconds of silence after which an agent closes a connection."""

CLIENT_SECONDS = 20 * 3600
"""The seconds after which a client does. They are fewer, so that the agent never closes during a request."""

_PROBES = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds of silence before the first probe, seconds between two probes, and the number of probes."""


def keep_alive(connection: socket.socket) -> None:
    """Enable TCP keep-alive, so that no firewall forgets a silent connection and a dead peer is noticed.

    On a listening socket, this applies to the connections that it accepts.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
