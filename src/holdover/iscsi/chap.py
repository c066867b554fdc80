"""CHAP, one way: the initiator shows the target that it knows the secret (RFC 1994, RFC 7143 12.1.3)."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from holdover.iscsi.errors import TextError

__all__ = ["ALGORITHMS", "CHALLENGE_LENGTH", "Credentials", "chap_response", "choose_algorithm", "verify"]

ALGORITHMS = {"7": "sha256", "5": "md5"}
"""CHAP_A numbers and their names in hashlib, the strongest first."""

CHALLENGE_LENGTH = 32

_MAX_CHALLENGE = 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """A CHAP user and its secret."""

    user: str
    secret: str

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"


def choose_algorithm(offer: str) -> str | None:
    """The strongest algorithm of a CHAP_A list that is known here, or None."""
    offered = offer.split(",")
    return next((number for number in ALGORITHMS if number in offered), None)


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
