"""CHAP: one side shows the other that it knows a secret, without sending it (RFC 1994, RFC 7143 12.1.3).

The initiator shows itself to the target; an initiator that asks for it is shown the target too.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from holdover.iscsi.errors import TextError

__all__ = [
    "ALGORITHMS",
    "CHALLENGE_LENGTH",
    "Credentials",
    "chap_response",
    "check_distinct",
    "choose_algorithm",
    "parse_identifier",
    "verify",
]

ALGORITHMS = {"8": "sha3_256", "7": "sha256", "6": "sha1", "5": "md5"}
"""CHAP_A numbers (IANA's PPP Authentication Algorithms) and their names in hashlib, the strongest first."""

CHALLENGE_LENGTH = 32

_MAX_CHALLENGE = 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """A CHAP user and its secret."""

    user: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"


def check_distinct(one: Credentials | None, other: Credentials | None) -> None:
    """Check what the two directions of mutual CHAP have (RFC 7143 9.2.1): whoever may use one secret for both
    can have his own challenge answered by the one who set it.

    Raises:
        ValueError: `other` without `one`, or both with one secret.
    """
    if other is not None and one is None:
        raise ValueError("mutual CHAP: the target shows itself only to initiators that show themselves")
    if one is not None and other is not None and one.secret == other.secret:
        raise ValueError("mutual CHAP: the secret of the target must differ from that of the initiator")


def choose_algorithm(offer: str) -> str | None:
    """The strongest algorithm of a CHAP_A list that is known here, or None."""
    offered = offer.split(",")
    return next((number for number in ALGORITHMS if number in offered), None)


def parse_identifier(text: str) -> int:
    """CHAP_I, 0 to 255.

    Raises:
        TextError: for anything else.
    """
    if not text.isascii() or not text.isdecimal() or len(text) > 3 or int(text) > 255:
        raise TextError(f"CHAP_I={text[:40]}: not within 0 to 255")
    return int(text)


def chap_response(algorithm: str, identifier: int, secret: str, challenge: bytes) -> bytes:
    """CHAP_R: the hash of identifier, secret and challenge.

    Raises:
        TextError: for an algorithm that is not known or a challenge of no or excessive length.
    """
    name = ALGORITHMS.get(algorithm)
    if name is None:
        raise TextError(f"CHAP_A={algorithm}: not an algorithm that was offered")
    if not 0 < len(challenge) <= _MAX_CHALLENGE:
        raise TextError(f"CHAP_C: {len(challenge)} bytes")
    # MD5 is what RFC 7143 makes mandatory; the peer chooses.
    message = bytes([identifier]) + secret.encode() + challenge
    return hashlib.new(name, message, usedforsecurity=False).digest()


def verify(credentials: Credentials, user: str, response: bytes, expected: bytes) -> bool:
    """Whether user and response are right; takes as long for a wrong user as for a wrong response."""
    user_matches = hmac.compare_digest(user.encode(), credentials.user.encode())
    return hmac.compare_digest(response, expected) and user_matches
