"""The login phase at the target."""

from __future__ import annotations

import pytest
from msgspec import structs

from holdover.iscsi.chap import ChapCredentials, chap_response
from holdover.iscsi.numbers import LoginStatus
from holdover.iscsi.requests import LoginRequest
from holdover.iscsi.target.protocol.login import LoginAnswer, TargetConfig, TargetLogin
from holdover.iscsi.text import decode_binary, decode_text, encode_text
from tests.iscsi.pair import INITIATOR, ISID, TARGET, entropy

SAID = {"InitiatorName": INITIATOR, "TargetName": TARGET}
CREDENTIALS = ChapCredentials("anna", "secret")


def request(
    said: dict[str, str], stage: int = 1, next_stage: int = 3, transit: bool = True, more: bool = False
) -> LoginRequest:
    return LoginRequest(7, ISID, 0, stage, next_stage, transit, encode_text(said.items()), more=more)


def login(credentials: ChapCredentials | None = None, alias: str | None = None) -> TargetLogin:
    return TargetLogin(TargetConfig(TARGET, alias, credentials, chap_md5=True), entropy)


def said(answer: LoginAnswer) -> dict[str, str]:
    assert answer.status is LoginStatus.SUCCESS, answer.problem
    return dict(decode_text(answer.text))


def test_straight_to_full_feature_phase() -> None:
    target = login(alias="a disk")
    answer = target.receive(request({**SAID, "InitiatorAlias": "me", "MaxBurstLength": "4096"}))
    assert answer.complete
    assert said(answer) == {
        "TargetAlias": "a disk",
        "TargetPortalGroupTag": "1",
        "MaxBurstLength": "4096",
        "MaxRecvDataSegmentLength": "262144",
    }
    assert (target.initiator, target.initiator_alias, target.isid) == (INITIATOR, "me", ISID)
    assert not target.discovery


def test_through_both_stages() -> None:
    target = login()
    first = target.receive(request({**SAID, "AuthMethod": "CHAP,None"}, 0, 1))
    assert said(first) == {"TargetPortalGroupTag": "1", "AuthMethod": "None"}
    assert (first.transit, first.next_stage, first.complete) == (True, 1, False)
    assert target.receive(request({"InitialR2T": "No"})).complete
    assert not target.negotiator.parameters().initial_r2t


def test_a_text_may_come_in_pieces() -> None:
    target = login()
    whole = encode_text(SAID.items())
    first = LoginRequest(7, ISID, 0, 1, 0, False, whole[:20], more=True)
    assert target.receive(first) == LoginAnswer(1)
    assert target.receive(structs.replace(request({}), data=whole[20:])).complete


def test_no_transit_without_being_asked() -> None:
    answer = login().receive(request(SAID, transit=False))
    assert (answer.transit, answer.next_stage, answer.status) == (False, 0, LoginStatus.SUCCESS)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"InitiatorName": None}, LoginStatus.MISSING_PARAMETER),
        ({"TargetName": None}, LoginStatus.MISSING_PARAMETER),
        ({"TargetName": TARGET + "x"}, LoginStatus.NOT_FOUND),
        ({"InitiatorName": "me"}, LoginStatus.INITIATOR_ERROR),
        ({"SessionType": "Other"}, LoginStatus.SESSION_TYPE_NOT_SUPPORTED),
    ],
)
def test_who_and_what_must_be_said(changes: dict[str, str | None], status: LoginStatus) -> None:
    pairs = {name: value for name, value in {**SAID, **changes}.items() if value is not None}
    answer = login().receive(request(pairs))
    assert answer.status is status
    assert answer.problem


def test_names_of_targets_are_compared_in_lower_case() -> None:
    assert login().receive(request({**SAID, "TargetName": TARGET.upper()})).complete


def test_discovery_needs_no_target() -> None:
    target = login()
    answer = target.receive(request({"InitiatorName": INITIATOR, "SessionType": "Discovery"}))
    assert answer.complete
    assert "TargetPortalGroupTag" not in said(answer)
    assert target.discovery


@pytest.mark.parametrize(
    "bad",
    [
        structs.replace(request(SAID), version_min=1),
        structs.replace(request(SAID), stage=2),
        structs.replace(request(SAID), stage=3),
        structs.replace(request(SAID), next_stage=1),
        structs.replace(request(SAID), next_stage=2),
        structs.replace(request(SAID), more=True),
        structs.replace(request(SAID), data=b"no pair"),
        structs.replace(request(SAID), data=bytes(20000)),
    ],
)
def test_requests_that_are_wrong_in_themselves(bad: LoginRequest) -> None:
    assert login().receive(bad).status is not LoginStatus.SUCCESS


@pytest.mark.parametrize(
    "second",
    [
        structs.replace(request({}), isid=bytes(6)),
        structs.replace(request({}), tsih=1),
        structs.replace(request({}), task_tag=8),
        structs.replace(request({}), stage=0),
    ],
)
def test_requests_that_do_not_follow_from_the_first(second: LoginRequest) -> None:
    target = login()
    assert target.receive(request(SAID, transit=False)).status is LoginStatus.SUCCESS
    assert target.receive(second).status is LoginStatus.INITIATOR_ERROR


def test_a_login_without_end() -> None:
    target = login()
    answers = [target.receive(request(SAID, transit=False)) for _ in range(65)]
    assert answers[63].status is LoginStatus.SUCCESS
    assert answers[64].status is LoginStatus.INITIATOR_ERROR


def test_a_text_without_end() -> None:
    target = login()
    piece = structs.replace(request({}, transit=False), data=b"x" * 8000, more=True)
    statuses = [target.receive(piece).status for _ in range(3)]
    assert statuses == [LoginStatus.SUCCESS, LoginStatus.SUCCESS, LoginStatus.INITIATOR_ERROR]


def challenged(offer: str = "5,7") -> tuple[TargetLogin, dict[str, str]]:
    target = login(CREDENTIALS)
    assert said(target.receive(request({**SAID, "AuthMethod": "CHAP,None"}, 0, 1)))["AuthMethod"] == "CHAP"
    return target, said(target.receive(request({"CHAP_A": offer}, 0, 1, transit=False)))


def answer_to(challenge: dict[str, str], known: ChapCredentials = CREDENTIALS) -> dict[str, str]:
    bits = decode_binary("CHAP_C", challenge["CHAP_C"])
    response = chap_response(challenge["CHAP_A"], int(challenge["CHAP_I"]), known.secret, bits)
    return {"CHAP_N": known.user, "CHAP_R": "0x" + response.hex()}


@pytest.mark.parametrize(
    ("offer", "chosen"), [("5", "5"), ("5,7", "7"), ("6,9,5", "6"), ("5,6,7,8", "8"), ("1,5", "5")]
)
def test_chap(offer: str, chosen: str) -> None:
    target, challenge = challenged(offer)
    assert challenge["CHAP_A"] == chosen
    answer = target.receive(request(answer_to(challenge), 0, 1))
    assert (answer.transit, answer.next_stage) == (True, 1)
    assert target.receive(request({})).complete


def test_no_transit_before_authentication() -> None:
    target = login(CREDENTIALS)
    answer = target.receive(request({**SAID, "AuthMethod": "CHAP"}, 0, 1))
    assert (answer.status, answer.transit) == (LoginStatus.SUCCESS, False)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda challenge: answer_to(challenge, ChapCredentials("otto", "secret")),
        lambda challenge: answer_to(challenge, ChapCredentials("anna", "Secret")),
        lambda challenge: {"CHAP_N": "anna"},
        lambda challenge: {"CHAP_N": "anna", "CHAP_R": "0x00"},
        lambda challenge: {"CHAP_R": answer_to(challenge)["CHAP_R"]},
        # The target was asked to authenticate itself, which it cannot.
        lambda challenge: {**answer_to(challenge), "CHAP_I": "1", "CHAP_C": "0x01"},
        lambda challenge: {"CHAP_A": "5"},
    ],
)
def test_wrong_answers_to_the_challenge(wrong: object) -> None:
    assert callable(wrong)
    target, challenge = challenged()
    answer = target.receive(request(wrong(challenge), 0, 1))
    assert answer.status in (LoginStatus.AUTHENTICATION_FAILURE, LoginStatus.INITIATOR_ERROR)


@pytest.mark.parametrize(
    "first",
    [
        request({**SAID, "AuthMethod": "None"}, 0, 1),
        request({**SAID, "AuthMethod": "CHAP", "CHAP_A": "9"}, 0, 1),
        request({**SAID, "CHAP_A": "5"}, 0, 1),
        request({**SAID, "AuthMethod": "CHAP", "CHAP_N": "anna", "CHAP_R": "0x00"}, 0, 1),
        request(SAID, 1, 3),
    ],
)
def test_no_way_around_chap(first: LoginRequest) -> None:
    assert login(CREDENTIALS).receive(first).status is LoginStatus.AUTHENTICATION_FAILURE


def test_a_method_that_nobody_asked_for() -> None:
    answer = login().receive(request({**SAID, "AuthMethod": "KRB5,SRP"}, 0, 1))
    assert answer.status is LoginStatus.AUTHENTICATION_FAILURE


def test_an_initiator_that_has_md5_alone_is_refused_unless_told() -> None:
    target = TargetLogin(TargetConfig(TARGET, None, CREDENTIALS), entropy)
    assert said(target.receive(request({**SAID, "AuthMethod": "CHAP"}, 0, 1)))["AuthMethod"] == "CHAP"
    answer = target.receive(request({"CHAP_A": "5"}, 0, 1))
    assert answer.status is LoginStatus.AUTHENTICATION_FAILURE
    assert answer.problem == (
        "the initiator has no other algorithm for CHAP than MD5, which this target does not accept"
    )
