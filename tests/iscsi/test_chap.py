"""CHAP: what RFC 1994 computes."""

from __future__ import annotations

import hashlib

import pytest

from holdover.iscsi.chap import (
    ChapCredentials,
    chap_response,
    check_distinct,
    choose_algorithm,
    parse_identifier,
    verify,
)
from holdover.iscsi.errors import TextError


@pytest.mark.parametrize(
    ("algorithm", "name"), [("5", "md5"), ("6", "sha1"), ("7", "sha256"), ("8", "sha3_256")]
)
def test_response_is_the_hash_of_identifier_secret_and_challenge(algorithm: str, name: str) -> None:
    expected = hashlib.new(name, b"\x07secretchallenge").digest()
    assert chap_response(algorithm, 7, "secret", b"challenge") == expected


def test_the_strongest_known_algorithm_is_chosen() -> None:
    assert choose_algorithm("5,6,7,8,9", md5=True) == "8"
    assert choose_algorithm("5,7,6", md5=True) == "7"
    assert choose_algorithm("5,6", md5=True) == "6"
    assert choose_algorithm("1,5", md5=True) == "5"
    assert choose_algorithm("9,128", md5=True) is None


def test_md5_is_not_accepted_unless_told() -> None:
    assert choose_algorithm("5", md5=False) is None
    assert choose_algorithm("5,6", md5=False) == "6"


@pytest.mark.parametrize(("algorithm", "challenge"), [("9", b"x"), ("5", b""), ("5", bytes(1025))])
def test_what_cannot_be_answered(algorithm: str, challenge: bytes) -> None:
    with pytest.raises(TextError):
        chap_response(algorithm, 1, "secret", challenge)


def test_verify_wants_user_and_response() -> None:
    credentials = ChapCredentials("anna", "secret")
    assert verify(credentials, "anna", b"r", b"r")
    assert not verify(credentials, "otto", b"r", b"r")
    assert not verify(credentials, "anna", b"x", b"r")


def test_the_secret_is_not_shown() -> None:
    assert "hush" not in repr(ChapCredentials("anna", "hush"))


def test_the_two_directions_have_secrets_of_their_own() -> None:
    anna, disk = ChapCredentials("anna", "one"), ChapCredentials("disk", "other")
    check_distinct(None, None)
    check_distinct(anna, None)
    check_distinct(anna, disk)
    with pytest.raises(ValueError, match="must differ"):
        check_distinct(anna, ChapCredentials("disk", "one"))
    with pytest.raises(ValueError, match="show themselves"):
        check_distinct(None, disk)


@pytest.mark.parametrize("text", ["", "-1", "256", "0x1", "1.0", "0001", "\u0663"])
def test_identifiers_that_are_none(text: str) -> None:
    assert parse_identifier("255") == 255
    with pytest.raises(TextError):
        parse_identifier(text)
