"""CHAP: one side proves that it knows a secret, without sending the secret (RFC 1994, RFC 7143 12.1.3).

The initiator proves its identity to the target. If the initiator asks for it, the target proves its own too.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from holdover.iscsi.errors import TextError

ALGORITHMS = {"8": "sha3_256", "7": "sha256", "6": "sha1", "5": "md5"}
"""The CHAP_A numbers (IANA's PPP Authentication Algorithms) with their hashlib names, the strongest first."""

MD5 = "5"
"""The only algorithm of many initiators, such as libiscsi before 1.20."""

CHALLENGE_LENGTH = 32

_MAX_CHALLENGE = 1024


@dataclass(frozen=True, slots=True)
class ChapCredentials:
    """A CHAP user and its secret."""

    user: str
    secret: str

    def __repr__(self) -> str:
        return f"ChapCredentials(user={self.user!r})"


def check_distinct(one: ChapCredentials | None, other: ChapCredentials | None) -> None:
    """Check that the two directions of mutual CHAP have different secrets (RFC 7143 9.2.1).

    With one secret for both, an attacker can send a challenge back to the side that sent it, and get the
    answer.

    Raises:
        ValueError: There is `other` without `one`, or both have the same secret.
    """
    if other is not None and one is None:
        raise ValueError("mutual CHAP: the target shows itself only to initiators that show themselves")
    if one is not None and other is not None and one.secret == other.secret:
        raise ValueError("mutual CHAP: the secret of the target must differ from that of the initiator")


def choose_algorithm(offer: str, *, md5: bool) -> str | None:
    """The strongest known algorithm of a CHAP_A list, or None; ``md5`` says whether MD5 is accepted."""
    offered = offer.split(",")
    return next((each for each in ALGORITHMS if each in offered and (md5 or each != MD5)), None)


def parse_identifier(text: str) -> int:
    """CHAP_I, 0 to 255.

    Raises:
        TextError: The text is anything else.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > 3 or int(text) > 255:
        raise TextError(f"CHAP_I={text[:40]}: not within 0 to 255")
    return int(text)


def chap_response(algorithm: str, identifier: int, secret: str, challenge: bytes) -> bytes:
    """CHAP_R: the hash of identifier, secret and challenge.

    Raises:
        TextError: The algorithm is not known, or the challenge is empty or too long.
    """
    name = ALGORITHMS.get(algorithm)
    if name is None:
        raise TextError(f"CHAP_A={algorithm}: not an algorithm that was offered")
    if not 0 < len(challenge) <= _MAX_CHALLENGE:
        raise TextError(f"CHAP_C: {len(challenge)} bytes")
    # RFC 7143 requires MD5; the peer chooses the algorithm.
    message = bytes([identifier]) + secret.encode() + challenge
    return hashlib.new(name, message, usedforsecurity=False).digest()


def verify(credentials: ChapCredentials, user: str, response: bytes, expected: bytes) -> bool:
    """Whether user and response are right. A wrong user takes the same time as a wrong response."""
    user_matches = hmac.compare_digest(user.encode(), credentials.user.encode())
    return hmac.compare_digest(response, expected) and user_matches
