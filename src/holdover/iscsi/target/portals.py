"""The addresses that a target reports: those of all its portals, as the initiator can reach them."""

from __future__ import annotations

from collections.abc import Iterable

SocketAddress = tuple[str, int] | tuple[str, int, int, int]
"""An address as the socket module returns it for IPv4 and IPv6."""

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - recognised here, not listened on


def format_address(address: SocketAddress) -> str:
    """Host and port in the form of RFC 7143 13.8, with an IPv6 address in brackets."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def portal_addresses(listening: Iterable[SocketAddress], local: SocketAddress) -> tuple[str, ...]:
    """The portals, "host:port" each, for an initiator whose connection has the address `local` at this end.

    For a socket that listens on all addresses of its family, the answer has the address to which the
    initiator connected. If that address has the other family, the socket is left out.
    """
    found: dict[str, None] = {}
    for address in listening:
        host = address[0]
        if host in _WILDCARDS:
            if (":" in host) != (":" in local[0]):
                continue
            host = local[0]
        found[format_address((host, address[1]))] = None
    return tuple(found)
