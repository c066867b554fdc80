"""CHAP: what RFC 1994 computes."""

from __future__ import annotations

import hashlib

import pytest

from holdover.iscsi.chap import Credentials, chap_response, choose_algorithm, verify
from holdover.iscsi.errors import TextError


@pytest.mark.parametrize(("algorithm", "name"), [("5", "md5"), ("7", "sha256")])
def test_response_is_the_hash_of_identifier_secret_and_challenge(algorithm: str, name: str) -> None:
    expected = hashlib.new(name, b"\x07secretchallenge").digest()
    assert chap_response(algorithm, 7, "secret", b"challenge") == expected


def test_the_strongest_known_algorithm_is_chosen() -> None:
    assert choose_algorithm("5,6,7") == "7"
    assert choose_algorithm("6,5") == "5"
    assert choose_algorithm("6,8") is None


@pytest.mark.parametrize(("algorithm", "challenge"), [("6", b"x"), ("5", b""), ("5", bytes(1025))])
def test_what_cannot_be_answered(algorithm: str, challenge: bytes) -> None:
    with pytest.raises(TextError):
        chap_response(algorithm, 1, "secret", challenge)


def test_verify_wants_user_and_response() -> None:
    credentials = Credentials("anna", "secret")
    assert verify(credentials, "anna", b"r", b"r")
    assert not verify(credentials, "otto", b"r", b"r")
    assert not verify(credentials, "anna", b"x", b"r")


def test_the_secret_is_not_shown() -> None:
    assert "hush" not in repr(Credentials("anna", "hush"))
