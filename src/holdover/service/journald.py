"""Lines of the log in the protocol of systemd-journald, with their fields.

The protocol: one datagram for each entry, with lines ``NAME=value``. A value with a newline stands in binary:
the name, a newline, the length as 64 bits in little endian, the value, a newline.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import IO

SOCKET = Path("/run/systemd/journal/socket")

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "exception": 3, "critical": 2}
"""Those of syslog(3), by the names of structlog's methods."""

_LARGEST = 48 * 1024
"""The most bytes of one value: an entry fits in a datagram then."""


def encode(entry: Mapping[str, str]) -> bytes:
    """An entry as a datagram. A value that is too long is cut."""
    parts = []
    for name, text in entry.items():
        value = text.encode("utf-8", "replace")[:_LARGEST]
        if b"\n" in value:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n")
        else:
            parts.append(name.encode() + b"=" + value + b"\n")
    return b"".join(parts)


def is_journal(stream: IO[str], environment: Mapping[str, str]) -> bool:
    """Whether a stream of this process goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    with contextlib.suppress(OSError, ValueError):
        found = os.fstat(stream.fileno())
        return (found.st_dev, found.st_ino) == (int(device), int(inode))
    return False


class JournalSocket:
    """The socket of systemd-journald; any thread may send."""

    def __init__(self, path: Path = SOCKET) -> None:
        """Connect.

        Raises:
            OSError: Nobody listens there.
        """
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        # a log that is full must not make the guests wait
        self._socket.setblocking(False)

    def send(self, entry: Mapping[str, str]) -> bool:
        """Send an entry; returns False if it was not taken."""
        try:
            self._socket.send(encode(entry))
        except OSError:
            return False
        return True
