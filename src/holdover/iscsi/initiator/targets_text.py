"""The question for the targets of a portal, and its answer in one or more parts (RFC 7143 Appendix C)."""

from __future__ import annotations

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.text import MAX_TEXT, decode_text, encode_text

_MOST_BYTES = 64 * MAX_TEXT


class TargetsText:
    """One question. `tag` is the tag of its task."""

    def __init__(self, tag: int, wanted: str) -> None:
        self.tag = tag
        self.question = encode_text([("SendTargets", wanted)])
        self._received = b""

    def take(self, part: bytes) -> None:
        """Take a part of the answer.

        Raises:
            ProtocolError: The answer is longer than any that is read.
        """
        self._received += part
        if len(self._received) > _MOST_BYTES:
            raise ProtocolError("the answer to SendTargets has no end")

    @property
    def answer(self) -> tuple[tuple[str, str], ...]:
        """The keys and values of the whole answer."""
        pairs: list[tuple[str, str]] = []
        for item in self._received.split(b"\0"):
            # The keys of this answer repeat for each target, so each part is decoded alone.
            pairs += decode_text(item)
        return tuple(pairs)
