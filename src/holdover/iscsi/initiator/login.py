"""The login phase as the initiator sees it (RFC 7143 6.3, 11.12, 11.13, 12)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdover.iscsi.chap import (
    ALGORITHMS,
    CHALLENGE_LENGTH,
    ChapCredentials,
    chap_response,
    check_distinct,
    parse_identifier,
    verify,
)
from holdover.iscsi.errors import LoginError, TextError
from holdover.iscsi.names import check_iscsi_name
from holdover.iscsi.negotiation import NegotiationLimits, Negotiator
from holdover.iscsi.numbers import LoginStage, LoginStatus
from holdover.iscsi.requests import LoginRequest
from holdover.iscsi.responses import LoginResponse
from holdover.iscsi.text import MAX_TEXT, KeyUse, decode_binary, decode_text, encode_binary, encode_text

_MAX_RESPONSES = 64

# MD5 comes before the stronger algorithms: tgt and other targets that derive from the iSCSI Enterprise Target
# take 7 for SHA-1, and then refuse the right response. A target without MD5 chooses the next algorithm.
_CHAP_OFFER = ",".join(sorted(ALGORITHMS, key=lambda number: (number != "5", -int(number))))

_Pairs = list[tuple[str, str]]

_REFUSALS = {
    LoginStatus.INITIATOR_ERROR: "initiator error",
    LoginStatus.AUTHENTICATION_FAILURE: "authentication failure",
    LoginStatus.AUTHORIZATION_FAILURE: "this initiator is not allowed in",
    LoginStatus.NOT_FOUND: "target not found",
    LoginStatus.TARGET_REMOVED: "target removed",
    LoginStatus.UNSUPPORTED_VERSION: "unsupported version",
    LoginStatus.TOO_MANY_CONNECTIONS: "too many connections",
    LoginStatus.MISSING_PARAMETER: "missing parameter",
    LoginStatus.CANNOT_INCLUDE_IN_SESSION: "the connection cannot be included in the session",
    LoginStatus.SESSION_TYPE_NOT_SUPPORTED: "session type not supported",
    LoginStatus.SESSION_DOES_NOT_EXIST: "session does not exist",
    LoginStatus.INVALID_DURING_LOGIN: "invalid request during login",
    LoginStatus.TARGET_ERROR: "target error",
    LoginStatus.SERVICE_UNAVAILABLE: "service unavailable",
    LoginStatus.OUT_OF_RESOURCES: "out of resources",
}
_CLASSES = {0x01: "redirected", 0x02: "initiator error", 0x03: "target error"}


@dataclass(frozen=True, slots=True)
class InitiatorConfig:
    """The initiator that logs in, and the target.

    Attributes:
        name: iSCSI name of the initiator.
        isid: 6 bytes; name and ISID are the initiator port (the I_T nexus's half).
        target: iSCSI name of the target, None for a discovery session.
        credentials: CHAP user and secret, or None.
        target_credentials: The CHAP user and secret that the target must prove, or None.
        limits: The wishes for the negotiation.

    Raises:
        ValueError: The credentials cannot be used together.
    """

    name: str
    isid: bytes
    target: str | None
    credentials: ChapCredentials | None = None
    target_credentials: ChapCredentials | None = None
    limits: NegotiationLimits = field(default_factory=NegotiationLimits)

    def __post_init__(self) -> None:
        check_distinct(self.credentials, self.target_credentials)


def credentials_of(user: str | None, password: str | None) -> ChapCredentials | None:
    """CHAP credentials, if there are any.

    Raises:
        ValueError: One of the two is missing, or cannot be used.
    """
    if (user is None) != (password is None):
        raise ValueError("user and password belong together")
    return None if user is None or password is None else ChapCredentials(user, password)


def config_of(
    name: str,
    isid: bytes,
    target: str | None,
    credentials: ChapCredentials | None,
    target_credentials: ChapCredentials | None,
    limits: NegotiationLimits | None,
) -> InitiatorConfig:
    """The configuration of one login, checked.

    Raises:
        ValueError: A value cannot be used.
    """
    if len(isid) != 6:
        raise ValueError(f"an ISID has 6 bytes, not {len(isid)}")
    name = check_iscsi_name(name)
    return InitiatorConfig(name, isid, target, credentials, target_credentials, limits or NegotiationLimits())


@dataclass(frozen=True, slots=True)
class LoginStep:
    """The content of the next Login Request."""

    stage: LoginStage
    next_stage: LoginStage
    transit: bool
    text: bytes

    def request(self, isid: bytes, cmd_sn: int, exp_stat_sn: int) -> LoginRequest:
        """The Login Request, with the ISID of the session and its serial numbers."""
        return LoginRequest(
            task_tag=0,
            isid=isid,
            tsih=0,
            stage=self.stage,
            next_stage=self.next_stage if self.transit else 0,
            transit=self.transit,
            data=self.text,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
        )


class InitiatorLogin:
    """The state of one login.

    Attributes:
        negotiator: The negotiation; its `parameters` are valid when the login is complete.
    """

    def __init__(self, config: InitiatorConfig, entropy: Callable[[int], bytes]) -> None:
        discovery = config.target is None
        self.negotiator = Negotiator(config.limits.values(), discovery=discovery)
        self._config = config
        self._entropy = entropy
        self._stage = LoginStage.SECURITY
        self._text = b""
        self._responses = 0
        self._method = ""
        self._algorithm = ""
        self._answered = False
        self._identifier = 0
        self._challenge = b""
        self._target_shown = config.target_credentials is None

    def first(self) -> LoginStep:
        """The first Login Request: the initiator's name, its wishes, and its authentication methods."""
        config = self._config
        pairs = [("InitiatorName", config.name)]
        if config.target is None:
            pairs.append(("SessionType", "Discovery"))
        else:
            pairs += [("SessionType", "Normal"), ("TargetName", config.target)]
        pairs.append(("AuthMethod", ",".join(self._methods())))
        return self._step(pairs, transit=config.credentials is None)

    def receive(self, response: LoginResponse) -> LoginStep | None:
        """Take a Login Response. Returns the next step, or None when full feature phase has begun.

        Raises:
            LoginError: The target refuses, or sends an invalid response.
        """
        self._responses += 1
        if response.status != LoginStatus.SUCCESS:
            raise LoginError(_refusal(response), response.status)
        if self._responses > _MAX_RESPONSES:
            raise LoginError(f"the login has not ended after {_MAX_RESPONSES} responses")
        if response.stage != self._stage:
            raise LoginError(f"the target answers stage {self._stage} with stage {response.stage}")
        self._text += response.data
        if len(self._text) > MAX_TEXT:
            raise LoginError(f"the target's login text is longer than {MAX_TEXT} bytes")
        if response.more:
            return LoginStep(self._stage, self._stage, False, b"")
        try:
            pairs, self._text = decode_text(self._text), b""
            if self._stage is LoginStage.SECURITY:
                return self._security(response, pairs)
            return self._operational(response, pairs)
        except TextError as error:
            raise LoginError(f"the target sent an invalid login: {error}") from error

    def _security(self, response: LoginResponse, pairs: _Pairs) -> LoginStep | None:
        said = dict(pairs)
        answers = self.negotiator.receive(
            [pair for pair in pairs if pair[0] != "AuthMethod" and not pair[0].startswith("CHAP_")],
            KeyUse.SECURITY,
        )
        if "AuthMethod" in said:
            self._method = self._check_method(said["AuthMethod"])
        if "CHAP_R" in said:
            self._check_target(said)
        if response.transit:
            return self._enter(response.next_stage)
        if self._method == "CHAP" and not self._answered:
            if "CHAP_C" not in said:
                return self._step([*answers, ("CHAP_A", _CHAP_OFFER)], transit=False)
            answers += self._chap_answer(said)
        return self._step(answers, transit=True)

    def _methods(self) -> tuple[str, ...]:
        """The methods that this side accepts. Without CHAP a target cannot prove its identity."""
        if self._config.credentials is None:
            return ("None",)
        return ("CHAP", "None") if self._config.target_credentials is None else ("CHAP",)

    def _check_method(self, method: str) -> str:
        if method not in self._methods():
            raise LoginError(f"the target wants to authenticate by {method[:40]}, which was not offered")
        return method

    def _chap_answer(self, said: dict[str, str]) -> _Pairs:
        credentials = self._config.credentials
        if credentials is None:
            raise LoginError("the target sent a CHAP challenge that cannot be answered")
        challenge = decode_binary("CHAP_C", said["CHAP_C"])
        self._algorithm = said.get("CHAP_A", "")
        identifier = parse_identifier(said.get("CHAP_I", ""))
        response = chap_response(self._algorithm, identifier, credentials.secret, challenge)
        self._answered = True
        answers = [("CHAP_N", credentials.user), ("CHAP_R", encode_binary(response))]
        if not self._target_shown:
            self._identifier = self._entropy(1)[0]
            self._challenge = self._entropy(CHALLENGE_LENGTH)
            answers += [("CHAP_I", str(self._identifier)), ("CHAP_C", encode_binary(self._challenge))]
        return answers

    def _check_target(self, said: dict[str, str]) -> None:
        """Whether the target knows its own secret."""
        credentials, challenge = self._config.target_credentials, self._challenge
        # A challenge is used once; a second response would be a second guess.
        self._challenge = b""
        if credentials is None or not challenge:
            raise LoginError("the target sent a CHAP response that was not asked for")
        expected = chap_response(self._algorithm, self._identifier, credentials.secret, challenge)
        if not verify(credentials, said.get("CHAP_N", ""), decode_binary("CHAP_R", said["CHAP_R"]), expected):
            raise LoginError("the target does not know its own CHAP user or secret: it may be another")
        self._target_shown = True

    def _operational(self, response: LoginResponse, pairs: _Pairs) -> LoginStep | None:
        answers = self.negotiator.receive(pairs, KeyUse.OPERATIONAL)
        if response.transit:
            return self._enter(response.next_stage)
        return self._step(answers, transit=True)

    def _enter(self, stage: int) -> LoginStep | None:
        """Enter the stage that the target granted."""
        if not self._target_shown:
            raise LoginError("the target did not show that it knows its own CHAP secret")
        if self._stage is LoginStage.SECURITY and stage == LoginStage.OPERATIONAL:
            self._stage = LoginStage.OPERATIONAL
            return self._step(self.negotiator.offers(), transit=True)
        if self._stage is LoginStage.OPERATIONAL and stage == LoginStage.FULL_FEATURE:
            return None
        raise LoginError(f"the target goes from stage {self._stage} to {stage}, which was not asked for")

    def _step(self, pairs: _Pairs, transit: bool) -> LoginStep:
        following = LoginStage.OPERATIONAL if self._stage is LoginStage.SECURITY else LoginStage.FULL_FEATURE
        return LoginStep(self._stage, following, transit, encode_text(pairs))


def _refusal(response: LoginResponse) -> str:
    """The class and the detail of a refused login, in words."""
    code = response.status
    if code >> 8 == 0x01:
        try:
            address = dict(decode_text(response.data)).get("TargetAddress", "an unknown address")
        except TextError:
            address = "an unknown address"
        return f"login refused: the target has moved to {address} (class 01h, detail {code & 0xFF:02X}h)"
    numbers = f"(class {code >> 8:02X}h, detail {code & 0xFF:02X}h)"
    words = next((text for status, text in _REFUSALS.items() if status == code), None)
    return f"login refused: {words or _CLASSES.get(code >> 8, 'for an unknown reason')} {numbers}"
