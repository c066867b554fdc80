"""The attackers of `bench.security`: `python -m bench.security_attacks NAME SECONDS`, a `Place` on its input.

Each one attacks as hard as it can for that time, from one process with several threads. It prints a line when
it begins, and what was refused at the end.
"""

from __future__ import annotations

import array
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import msgspec

_PIECE = b"a" * 65536
_HELD = 400


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where to attack.

    Attributes:
        address, export: HOST:PORT of the API and of the guest's export.
        peer, stranger, ca: Files in PEM. ``peer`` is another host's certificate, ``stranger`` the certificate
            of somebody whom the agent's file does not name, each with its key beside it. ``ca`` is the
            authority.
        helper: The helper's socket for all guests.
    """

    address: str
    export: str
    peer: str
    stranger: str
    ca: str
    helper: str


class _Count:
    """The count of one thread's refusals."""

    def __init__(self, seconds: float) -> None:
        self.refused = 0
        self.bytes = 0
        self.began = time.monotonic()
        self.end = self.began + seconds

    @property
    def goes_on(self) -> bool:
        """Whether there is time left."""
        return time.monotonic() < self.end


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def _context(place: Place, certificate: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(place.ca)
    if certificate is not None:
        context.load_cert_chain(certificate, certificate.removesuffix(".crt") + ".key")
    return context


def _silent(place: Place, count: _Count) -> None:
    """Open connections to the API and the export that send nothing; with many open, close the oldest."""
    held: list[socket.socket] = []
    while count.goes_on:
        for address in (place.address, place.export):
            try:
                held.append(_connect(address))
                count.refused += 1
            except OSError:
                time.sleep(0.001)
        while len(held) > _HELD:
            held.pop(0).close()


def _handshakes(place: Place, count: _Count) -> None:
    """Begin TLS without a certificate."""
    context = _context(place, None)
    while count.goes_on:
        try:
            with context.wrap_socket(_connect(place.address), server_hostname="host-a") as connection:
                connection.recv(1)
        except OSError:
            pass
        count.refused += 1


def _headers(place: Place, count: _Count) -> None:
    """Send a peer's headers without an end."""
    context = _context(place, place.peer)
    while count.goes_on:
        try:
            with context.wrap_socket(_connect(place.address), server_hostname="host-a") as connection:
                connection.sendall(b"GET /guests HTTP/1.1\r\nX: ")
                while count.goes_on:
                    connection.sendall(_PIECE)
                    count.bytes += len(_PIECE)
        except OSError:
            pass
        count.refused += 1


def _requests(place: Place, count: _Count) -> None:
    """Send requests with a certificate of the authority for somebody whom the agent's file does not name."""
    context = _context(place, place.stranger)
    request = b"GET /guests HTTP/1.1\r\nHost: host-a\r\n\r\n"
    while count.goes_on:
        try:
            with context.wrap_socket(_connect(place.address), server_hostname="host-a") as connection:
                while count.goes_on:
                    connection.sendall(request)
                    if not connection.recv(4096):
                        break
                    count.refused += 1
        except OSError:
            pass


_READ_KEYS = bytes.fromhex("5e000000000000004000").ljust(16, b"\0")


def _helper_connect(place: Place) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    try:
        client.connect(place.helper)
        client.recv(4)
        client.sendall(bytes(4))
    except OSError:
        client.close()
        raise
    return client


def _helper_connections(place: Place, count: _Count) -> None:
    """Open connections to the helper, say what QEMU says at first, and keep them; close the oldest."""
    held: list[socket.socket] = []
    while count.goes_on:
        try:
            held.append(_helper_connect(place))
        except OSError:
            time.sleep(0.001)
        count.refused += 1
        while len(held) > _HELD:
            held.pop(0).close()


def _helper_commands(place: Place, count: _Count) -> None:
    """Send READ KEYS to the helper, as a process that is no guest; connect again when that is closed."""
    with open("/dev/null", "r+b") as device:
        rights = array.array("i", [device.fileno()])
        while count.goes_on:
            try:
                with _helper_connect(place) as client:
                    while count.goes_on:
                        client.sendmsg([_READ_KEYS], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                        if not client.recv(4096):
                            break
                        count.refused += 1
            except OSError:
                time.sleep(0.001)


ATTACKS: dict[str, tuple[Callable[[Place, _Count], None], int]] = {
    "silent connections": (_silent, 1),
    "handshakes without a certificate": (_handshakes, 8),
    "headers without an end": (_headers, 8),
    "requests of a stranger": (_requests, 8),
    "connections to the helper": (_helper_connections, 1),
    "commands of no guest to the helper": (_helper_commands, 32),
}
"""Each attack, with the number of its threads."""


def main() -> None:
    """Attack, and print what was refused."""
    place = msgspec.json.decode(sys.stdin.buffer.read(), type=Place)
    attack, threads = ATTACKS[sys.argv[1]]
    print("begins", flush=True)
    began = time.monotonic()
    counts = [_Count(float(sys.argv[2])) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(attack, [place] * threads, counts))
    total = {"refused": sum(each.refused for each in counts), "bytes": sum(each.bytes for each in counts)}
    print(json.dumps({**total, "seconds": time.monotonic() - began}))


if __name__ == "__main__":
    main()
