"""Mutual CHAP: both sides against one another, and each against one that cheats (RFC 7143 9.2.1, 12.1.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from holdover.iscsi.chap import ALGORITHMS, ChapCredentials, chap_response
from holdover.iscsi.errors import LoginError
from holdover.iscsi.initiator.events import LoggedIn, LoginFailed
from holdover.iscsi.initiator.login import InitiatorConfig, InitiatorLogin
from holdover.iscsi.numbers import LoginStatus
from holdover.iscsi.requests import LoginRequest
from holdover.iscsi.responses import LoginResponse
from holdover.iscsi.target.events import Closed
from holdover.iscsi.target.protocol.login import LoginAnswer, TargetConfig, TargetLogin
from holdover.iscsi.text import decode_binary, decode_text, encode_text
from tests.iscsi.pair import INITIATOR, ISID, TARGET, Pair, entropy

ANNA, DISK = ChapCredentials("anna", "annas secret"), ChapCredentials("disk", "the target's secret")
INITIATOR_CONFIG = InitiatorConfig(INITIATOR, ISID, TARGET, ANNA, DISK)
TARGET_CONFIG = TargetConfig(TARGET, credentials=ANNA, chap_md5=True, mutual_credentials=DISK)

Said = dict[str, str]


def test_both_show_themselves() -> None:
    # The same random bytes on both sides would be a reflected challenge.
    pair = Pair(INITIATOR_CONFIG, TARGET_CONFIG, initiator_entropy=lambda length: b"i" * length)
    assert isinstance(pair.run()[0], LoggedIn)
    assert pair.to_target.count(b"CHAP_R=") == pair.to_initiator.count(b"CHAP_R=") == 1
    assert b"CHAP_N=disk" in pair.to_initiator


def test_an_initiator_that_does_not_ask_is_let_in_all_the_same() -> None:
    pair = Pair(replace(INITIATOR_CONFIG, target_credentials=None), TARGET_CONFIG)
    assert isinstance(pair.run()[0], LoggedIn)
    assert b"CHAP_R=" not in pair.to_initiator


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (replace(TARGET_CONFIG, mutual_credentials=None), "authentication failure"),
        (
            replace(TARGET_CONFIG, mutual_credentials=ChapCredentials("disk", "wrong")),
            "its own CHAP user or secret",
        ),
        (
            replace(TARGET_CONFIG, mutual_credentials=ChapCredentials("tape", DISK.secret)),
            "its own CHAP user",
        ),
        (TargetConfig(TARGET), "authentication failure"),
    ],
)
def test_a_target_that_cannot_show_itself_gets_no_session(target: TargetConfig, words: str) -> None:
    pair = Pair(INITIATOR_CONFIG, target, initiator_entropy=lambda length: b"i" * length)
    failed = pair.run()[0]
    assert isinstance(failed, LoginFailed)
    assert words in str(failed.error)


def test_a_reflected_challenge_is_refused() -> None:
    pair = Pair(INITIATOR_CONFIG, TARGET_CONFIG)
    assert isinstance(pair.run()[0], LoginFailed)
    assert pair.target_events == [Closed("login refused: the initiator reflects the challenge")]
    assert b"CHAP_R=" not in pair.to_initiator


def request(said: Said, transit: bool = True) -> LoginRequest:
    return LoginRequest(0, ISID, 0, 0, 1, transit, encode_text(said.items()), cmd_sn=1)


def said(answer: LoginAnswer) -> Said:
    return dict(decode_text(answer.text))


def proof(challenge: Said, secret: str) -> Said:
    bits = decode_binary("CHAP_C", challenge["CHAP_C"])
    return {"CHAP_R": "0x" + chap_response(challenge["CHAP_A"], int(challenge["CHAP_I"]), secret, bits).hex()}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_target_answers_the_initiators_challenge(algorithm: str) -> None:
    target = TargetLogin(TARGET_CONFIG, entropy)
    target.receive(request({"InitiatorName": INITIATOR, "TargetName": TARGET, "AuthMethod": "CHAP"}, False))
    challenge = said(target.receive(request({"CHAP_A": algorithm}, False)))
    mine = {"CHAP_I": "7", "CHAP_C": "0x0102"}
    answer = target.receive(request({"CHAP_N": "anna", **proof(challenge, ANNA.secret), **mine}))
    expected = chap_response(algorithm, 7, DISK.secret, b"\1\2")
    assert said(answer) == {"CHAP_N": "disk", "CHAP_R": "0x" + expected.hex()}
    assert answer.transit


@pytest.mark.parametrize(
    "wrong",
    [
        {"CHAP_R": "0x" + "00" * 32},
        {"CHAP_N": "otto"},
        {"CHAP_I": "256"},
        {"CHAP_C": "0x"},
        {"CHAP_C": ""},
        {"CHAP_C": "0x" + entropy(32).hex()},
    ],
)
def test_the_target_shows_itself_to_nobody_else(wrong: Said) -> None:
    target = TargetLogin(TARGET_CONFIG, entropy)
    target.receive(request({"InitiatorName": INITIATOR, "TargetName": TARGET, "AuthMethod": "CHAP"}, False))
    challenge = said(target.receive(request({"CHAP_A": "7"}, False)))
    right = {"CHAP_N": "anna", **proof(challenge, ANNA.secret), "CHAP_I": "7", "CHAP_C": "0x0102"}
    answer = target.receive(request({**right, **wrong}))
    assert answer.status in (LoginStatus.AUTHENTICATION_FAILURE, LoginStatus.INITIATOR_ERROR)
    assert answer.text == b""
    assert not answer.transit


def response(said: Said, transit: bool = False) -> LoginResponse:
    return LoginResponse(0, ISID, 0, 0, 1 if transit else 0, transit, encode_text(said.items()), 0, 0, 0, 0)


def right_answer(asked: Said) -> Said:
    return {"CHAP_N": "disk", **proof({"CHAP_A": "7", **asked}, DISK.secret)}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda _: {}, "did not show"),
        (lambda asked: {**right_answer(asked), "CHAP_N": "anna"}, "another"),
        # Its own response of a moment ago, sent back.
        (lambda asked: {"CHAP_N": "disk", "CHAP_R": asked["CHAP_R"]}, "another"),
        (lambda asked: {"CHAP_N": "disk", **proof({"CHAP_A": "7", **asked}, ANNA.secret)}, "another"),
        (lambda asked: {"CHAP_R": right_answer(asked)["CHAP_R"]}, "another"),
        (lambda _: {"CHAP_N": "disk", "CHAP_R": "nothing"}, "an invalid login"),
    ],
)
def test_the_initiator_goes_no_further_with_a_target_that_does_not_know(
    answer: Callable[[Said], Said], words: str
) -> None:
    login = InitiatorLogin(INITIATOR_CONFIG, entropy)
    assert dict(decode_text(login.first().text))["AuthMethod"] == "CHAP"
    login.receive(response({"AuthMethod": "CHAP"}))
    step = login.receive(response({"CHAP_A": "7", "CHAP_I": "9", "CHAP_C": "0x0505"}))
    assert step is not None
    asked = dict(decode_text(step.text))
    assert (asked["CHAP_N"], asked["CHAP_I"], asked["CHAP_C"]) == ("anna", "1", "0x" + entropy(32).hex())
    with pytest.raises(LoginError, match=words):
        login.receive(response(answer(asked), transit=True))


def test_a_response_that_nobody_asked_for() -> None:
    login = InitiatorLogin(replace(INITIATOR_CONFIG, target_credentials=None), entropy)
    login.first()
    with pytest.raises(LoginError, match="not asked for"):
        login.receive(response({"AuthMethod": "CHAP", "CHAP_N": "disk", "CHAP_R": "0x01"}))


def test_one_secret_for_both_directions_is_refused() -> None:
    with pytest.raises(ValueError, match="must differ"):
        replace(TARGET_CONFIG, mutual_credentials=ANNA)
    with pytest.raises(ValueError, match="must differ"):
        replace(INITIATOR_CONFIG, target_credentials=ANNA)
