"""The login phase at the initiator, against answers made by hand."""

from __future__ import annotations

import pytest

from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.errors import LoginError
from holdover.iscsi.initiator.login import InitiatorConfig, InitiatorLogin, LoginStep
from holdover.iscsi.numbers import LoginStage, LoginStatus
from holdover.iscsi.responses import LoginResponse
from holdover.iscsi.text import decode_text, encode_text
from tests.iscsi.pair import INITIATOR, ISID, TARGET, entropy


def response(
    said: dict[str, str] | None = None,
    stage: int = 0,
    next_stage: int = 0,
    transit: bool = False,
    status: int = 0,
    more: bool = False,
) -> LoginResponse:
    text = encode_text((said or {}).items())
    return LoginResponse(0, ISID, 0, stage, next_stage, transit, text, status, 0, 0, 0, more)


def begin(credentials: ChapCredentials | None = None) -> InitiatorLogin:
    login = InitiatorLogin(InitiatorConfig(INITIATOR, ISID, TARGET, credentials), entropy)
    login.first()
    return login


def said(step: LoginStep | None) -> dict[str, str]:
    assert step is not None
    return dict(decode_text(step.text))


def test_the_first_request_says_who_and_where() -> None:
    step = InitiatorLogin(InitiatorConfig(INITIATOR, ISID, TARGET), entropy).first()
    assert said(step) == {
        "InitiatorName": INITIATOR,
        "SessionType": "Normal",
        "TargetName": TARGET,
        "AuthMethod": "None",
    }
    assert (step.stage, step.next_stage, step.transit) == (LoginStage.SECURITY, LoginStage.OPERATIONAL, True)


def test_offers_come_in_the_operational_stage_and_the_login_ends_there() -> None:
    login = begin()
    step = login.receive(response({"AuthMethod": "None"}, 0, 1, True))
    assert said(step)["MaxRecvDataSegmentLength"] == "262144"
    assert step is not None
    assert step.stage is LoginStage.OPERATIONAL
    assert login.receive(response({"InitialR2T": "Yes"}, 1, 3, True)) is None
    assert login.negotiator.parameters().initial_r2t


def test_a_target_that_offers_something_is_answered() -> None:
    login = begin()
    login.receive(response({}, 0, 1, True))
    step = login.receive(response({"X-vendor": "1"}, 1))
    assert said(step) == {"X-vendor": "NotUnderstood"}


def test_an_answer_in_pieces() -> None:
    login = begin()
    step = login.receive(response({"AuthMethod": "No"}, more=True))
    assert step == LoginStep(LoginStage.SECURITY, LoginStage.SECURITY, False, b"")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x0203, "target not found (class 02h, detail 03h)"),
        (0x0301, "service unavailable (class 03h, detail 01h)"),
        (0x02EE, "initiator error (class 02h, detail EEh)"),
        (0x0999, "for an unknown reason (class 09h, detail 99h)"),
    ],
)
def test_refusals_in_words(code: int, words: str) -> None:
    with pytest.raises(LoginError) as raised:
        begin().receive(response(status=code))
    assert str(raised.value) == f"login refused: {words}"
    assert raised.value.code == code
    assert raised.value.status == (code if code in set(LoginStatus) else None)


def test_a_target_that_has_moved() -> None:
    with pytest.raises(LoginError, match=r"moved to 10\.0\.0\.9:3260"):
        begin().receive(response({"TargetAddress": "10.0.0.9:3260,1"}, status=0x0101))


@pytest.mark.parametrize(
    "answer",
    [
        response({"AuthMethod": "CHAP"}),
        response({"AuthMethod": "KRB5"}),
        response(stage=1),
        response({}, 0, 3, True),
        response({}, 0, 0, True),
        response({"TargetPortalGroupTag": "1", "AuthMethod": "None"}, 0, 2, True),
    ],
)
def test_answers_that_cannot_be(answer: LoginResponse) -> None:
    with pytest.raises(LoginError, match="the target"):
        begin().receive(answer)


@pytest.mark.parametrize(
    "challenge",
    [
        {"CHAP_A": "9", "CHAP_I": "1", "CHAP_C": "0x01"},
        {"CHAP_A": "5", "CHAP_I": "256", "CHAP_C": "0x01"},
        {"CHAP_A": "5", "CHAP_I": "x", "CHAP_C": "0x01"},
        {"CHAP_A": "5", "CHAP_C": "0x01"},
        {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "zz"},
        {"CHAP_I": "1", "CHAP_C": "0x01"},
    ],
)
def test_challenges_that_cannot_be_answered(challenge: dict[str, str]) -> None:
    login = begin(ChapCredentials("anna", "secret"))
    assert said(login.receive(response({"AuthMethod": "CHAP"}))) == {"CHAP_A": "5,8,7,6"}
    with pytest.raises(LoginError, match="the target sent"):
        login.receive(response(challenge))


def test_a_target_that_wants_no_secret_gets_none() -> None:
    login = begin(ChapCredentials("anna", "secret"))
    step = login.receive(response({"AuthMethod": "None"}, 0))
    assert step == LoginStep(LoginStage.SECURITY, LoginStage.OPERATIONAL, True, b"")


def test_a_login_without_end() -> None:
    login = begin()
    for _ in range(64):
        login.receive(response())
    with pytest.raises(LoginError, match="has not ended after"):
        login.receive(response())
