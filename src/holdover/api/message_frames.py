"""The frames of the stream on which one agent sends another what a guest stands still for. Pure.

A frame is a header and a body. The header has the length of the body, a number that the sender of a message
chooses and that its answer repeats, and the kind of the frame. The body is JSON, as in a request of the API.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from holdover.api.request_bounds import LARGEST_BODY

_HEADER = struct.Struct("!IIB")


class FrameError(Exception):
    """What has come is no frame; the connection cannot go on."""


class FrameKind(IntEnum):
    """What the body of a frame is."""

    MESSAGE = 1
    """A `PeerMessage`."""
    ANSWER = 2
    """An `Answer` to a message, a `QemuAnswer` to a question about QEMU."""
    PROBLEM = 3
    """A `Problem`: the message was not handled."""
    QEMU = 4
    """A `QemuRequest` to run the guest."""


ASKING = frozenset({FrameKind.MESSAGE, FrameKind.QEMU})
"""The kinds of frames that are answered."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame."""

    number: int
    kind: FrameKind
    body: bytes

    def encode(self) -> bytes:
        """The frame as it is sent."""
        return _HEADER.pack(len(self.body), self.number, self.kind) + self.body


class FrameReader:
    """Takes bytes of one direction of a stream, and returns the frames in them."""

    def __init__(self) -> None:
        self._received = bytearray()

    @property
    def is_within(self) -> bool:
        """Whether the beginning of a frame has come, and not its end."""
        return bool(self._received)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are whole now.

        Raises:
            FrameError: A frame is too long, or of no known kind.
        """
        self._received += data
        frames, at = [], 0
        while len(self._received) - at >= _HEADER.size:
            length, number, kind = _HEADER.unpack_from(self._received, at)
            if length > LARGEST_BODY:
                raise FrameError(f"a frame has {length} bytes, and at most {LARGEST_BODY} are allowed")
            end = at + _HEADER.size + length
            if end > len(self._received):
                break
            try:
                known = FrameKind(kind)
            except ValueError as error:
                raise FrameError(f"a frame has the kind {kind}, which does not exist") from error
            frames.append(Frame(number, known, bytes(self._received[at + _HEADER.size : end])))
            at = end
        del self._received[:at]
        return frames
