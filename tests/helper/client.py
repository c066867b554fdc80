"""A small client of the persistent reservation helper protocol, as QEMU is one. Blocking."""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_HEADER = 8 + 96


@dataclass(frozen=True, slots=True)
class Reply:
    """A helper's answer: SCSI status, payload, and 96 bytes of sense data."""

    status: int
    payload: bytes
    sense: bytes


class HelperClient:
    """One connection. The features are exchanged when it is made, unless `greet` is False."""

    def __init__(self, path: Path, *, greet: bool = True, timeout: float = 600.0) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        if greet:
            assert self._read(4) == bytes(4)
            self.socket.sendall(bytes(4))

    def __enter__(self) -> HelperClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def run(self, descriptor: int, cdb: bytes, data_out: bytes = b"") -> Reply:
        """One command, in the writes that QEMU makes: the CDB with the descriptor, then the list."""
        self.send(cdb.ljust(16, b"\0"), [descriptor])
        if data_out:
            self.socket.sendall(data_out)
        return self.reply()

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Bytes with descriptors beside them."""
        rights = array.array("i", descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        sent = self.socket.sendmsg([data], ancillary)
        if sent < len(data):
            self.socket.sendall(data[sent:])

    def reply(self) -> Reply:
        """The answer of a command that was sent."""
        header = self._read(_HEADER)
        payload = self._read(int.from_bytes(header[4:8], "big"))
        return Reply(int.from_bytes(header[:4], "big"), payload, header[8:])

    def _read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionResetError(f"hung up after {len(data)} of {length} bytes")
            data += piece
        return data
