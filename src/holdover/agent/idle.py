"""How long a connection to an agent may be silent.

A guest stands still for one message between agents. Its connection was opened long before, when the guest's
memory began to be copied, and is to be there still: neither TCP nor TLS shakes hands while the guest waits.
"""

from __future__ import annotations

import socket

__all__ = ["AGENT_SECONDS", "CLIENT_SECONDS", "keep_alive"]

AGENT_SECONDS = 24 * 3600
"""After which an agent closes a connection."""

CLIENT_SECONDS = 20 * 3600
"""After which a client does: sooner, or the agent would close it just when a request is on its way."""

_PROBES = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 5, socket.TCP_KEEPCNT: 3}
"""Seconds, seconds, count."""


def keep_alive(connection: socket.socket) -> None:
    """Have TCP see to it that a silent connection is one: no firewall forgets it, no dead host keeps it.

    On a listening socket: those that it accepts.
    """
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _PROBES.items():
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
