"""The login phase as the target sees it (RFC 7143 6.3, 11.12, 11.13, 12).

`TargetLogin.receive` takes one Login Request, and returns the answer. It knows the stages, the identity of
both sides and CHAP; the session handles StatSN and the other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdover.iscsi.chap import (
    CHALLENGE_LENGTH,
    MD5,
    ChapCredentials,
    chap_response,
    check_distinct,
    choose_algorithm,
    parse_identifier,
    verify,
)
from holdover.iscsi.errors import IscsiNameError, TextError
from holdover.iscsi.names import check_iscsi_name
from holdover.iscsi.negotiation import NegotiationLimits, Negotiator
from holdover.iscsi.numbers import LoginStage, LoginStatus
from holdover.iscsi.requests import LoginRequest
from holdover.iscsi.responses import LoginResponse
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.text import MAX_TEXT, KeyUse, decode_binary, decode_text, encode_binary, encode_text

_MAX_REQUESTS = 64
_VERSION = 0

_Pairs = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """The identity and the limits of a target; they are the same for all its sessions.

    Attributes:
        name: The iSCSI name of the target, as `check_iscsi_name` returns it.
        alias: A name for people, or None.
        credentials: The user and the secret that every initiator must prove by CHAP, or None.
        chap_md5: Whether MD5 is accepted for CHAP from an initiator without a stronger algorithm.
        mutual_credentials: The user and the secret that the target proves to initiators that ask, or None.
        portal_group_tag: The tag of the one portal group.
        limits: The wishes for the negotiation.
        max_commands: The most open commands of one session.
        max_immediate: The most open immediate commands of one session.
        max_data_out, max_data_in: The longest Data-Out and Data-In buffer of one command in bytes.
        max_buffered: The most solicited Data-Out of all commands of one session together in bytes.
        budget: The limit for the data of all commands of all sessions together.

    Raises:
        ValueError: The credentials cannot be used together.
    """

    name: str
    alias: str | None = None
    credentials: ChapCredentials | None = None
    chap_md5: bool = False
    mutual_credentials: ChapCredentials | None = None
    portal_group_tag: int = 1
    limits: NegotiationLimits = field(default_factory=NegotiationLimits)
    max_commands: int = 128
    max_immediate: int = 16
    max_data_out: int = 32 << 20
    max_data_in: int = 32 << 20
    max_buffered: int = 64 << 20
    budget: ByteBudget = field(default_factory=lambda: ByteBudget(256 << 20))

    def __post_init__(self) -> None:
        check_distinct(self.credentials, self.mutual_credentials)


@dataclass(frozen=True, slots=True)
class LoginAnswer:
    """The content of a Login Response.

    Attributes:
        stage: Current stage.
        next_stage: The next stage, if `transit` grants it.
        text: The data segment.
        problem: The reason why the login was refused, in words.
    """

    stage: int
    next_stage: int = 0
    transit: bool = False
    text: bytes = b""
    status: LoginStatus = LoginStatus.SUCCESS
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether full feature phase follows."""
        return self.transit and self.next_stage == LoginStage.FULL_FEATURE

    def pdu(self, request: LoginRequest, tsih: int, numbers: tuple[int, int, int]) -> LoginResponse:
        """The Login Response, with StatSN, ExpCmdSN and MaxCmdSN."""
        return LoginResponse(
            request.task_tag,
            request.isid,
            tsih,
            self.stage,
            self.next_stage,
            self.transit,
            self.text,
            self.status,
            *numbers,
        )


class _RefusedError(Exception):
    def __init__(self, status: LoginStatus, problem: str) -> None:
        super().__init__(problem)
        self.status = status


class TargetLogin:
    """State of one login.

    Attributes:
        initiator: The name of the initiator; "" before the initiator has sent it.
        initiator_alias: The alias of the initiator, or "".
        isid: The ISID of the initiator, 6 bytes.
        tsih: The TSIH that the initiator asks for; 0 for a new session.
        connection_id: The CID that the initiator gave the connection.
        discovery: Whether the initiator wants a discovery session.
        negotiator: The negotiation, which continues in full feature phase.
    """

    def __init__(self, config: TargetConfig, entropy: Callable[[int], bytes]) -> None:
        self.initiator = ""
        self.initiator_alias = ""
        self.isid = b""
        self.tsih = 0
        self.connection_id = 0
        self.discovery = False
        self.negotiator = Negotiator(config.limits.values())
        self._config = config
        self._entropy = entropy
        self._stage: LoginStage | None = None
        self._authenticated = config.credentials is None
        self._method = ""
        self._algorithm = ""
        self._identifier = 0
        self._challenge = b""
        self._requests = 0
        self._text = b""
        self._task_tag = 0
        self._introduced = False

    def receive(self, request: LoginRequest) -> LoginAnswer:
        """Take one Login Request. An answer with a status other than SUCCESS ends the connection."""
        try:
            self._check(request)
            self._text += request.data
            if len(self._text) > MAX_TEXT:
                raise _RefusedError(LoginStatus.INITIATOR_ERROR, f"login text is longer than {MAX_TEXT}")
            if request.more:
                return LoginAnswer(request.stage)
            pairs, self._text = decode_text(self._text), b""
            return self._answer(request, pairs)
        except _RefusedError as refused:
            return LoginAnswer(request.stage, status=refused.status, problem=str(refused))
        except TextError as error:
            return LoginAnswer(request.stage, status=LoginStatus.INITIATOR_ERROR, problem=str(error))

    def invalid(self, header: bytes, numbers: tuple[int, int, int]) -> LoginResponse:
        """The answer to a PDU that is not a Login Request, with StatSN, ExpCmdSN and MaxCmdSN."""
        tag, stage = int.from_bytes(header[16:20]), LoginStage.SECURITY
        status = LoginStatus.INVALID_DURING_LOGIN
        return LoginResponse(tag, self.isid or bytes(6), 0, stage, stage, False, b"", status, *numbers)

    def _check(self, request: LoginRequest) -> None:
        """Check a request by itself, and against the requests before it."""
        self._requests += 1
        if self._requests > _MAX_REQUESTS:
            raise _RefusedError(LoginStatus.INITIATOR_ERROR, f"more than {_MAX_REQUESTS} login requests")
        if request.version_min > _VERSION:
            raise _RefusedError(LoginStatus.UNSUPPORTED_VERSION, f"version {request.version_min} and above")
        if self._stage is None:
            self.isid, self.tsih, self._task_tag = request.isid, request.tsih, request.task_tag
            self.connection_id = request.connection_id
        elif (request.isid, request.tsih, request.task_tag) != (self.isid, self.tsih, self._task_tag):
            raise _RefusedError(LoginStatus.INITIATOR_ERROR, "ISID, TSIH or task tag changed during login")
        if self._stage not in (None, request.stage) or request.stage not in (
            LoginStage.SECURITY,
            LoginStage.OPERATIONAL,
        ):
            raise _RefusedError(LoginStatus.INITIATOR_ERROR, f"stage {request.stage} out of turn")
        self._stage = LoginStage(request.stage)
        if request.transit:
            forward = request.next_stage in (LoginStage.OPERATIONAL, LoginStage.FULL_FEATURE)
            if request.more or not forward or request.next_stage <= request.stage:
                raise _RefusedError(
                    LoginStatus.INITIATOR_ERROR, f"transit from stage {request.stage} to {request.next_stage}"
                )

    def _answer(self, request: LoginRequest, pairs: _Pairs) -> LoginAnswer:
        answers: _Pairs = []
        if not self._introduced:
            answers += self._introduce(dict(pairs))
        if request.stage == LoginStage.SECURITY:
            answers += self._security(pairs)
        elif not self._authenticated:
            raise _RefusedError(LoginStatus.AUTHENTICATION_FAILURE, "the initiator skipped authentication")
        else:
            answers += self.negotiator.receive(pairs, KeyUse.OPERATIONAL)
            answers += self.negotiator.declaration()
        transit = request.transit and self._authenticated
        if transit:
            self._stage = LoginStage(request.next_stage)
        return LoginAnswer(request.stage, request.next_stage if transit else 0, transit, encode_text(answers))

    def _introduce(self, said: dict[str, str]) -> _Pairs:
        """Read the initiator's name and wishes from its first request (RFC 7143 6.3)."""
        self._introduced = True
        if "InitiatorName" not in said:
            raise _RefusedError(LoginStatus.MISSING_PARAMETER, "InitiatorName is missing")
        try:
            self.initiator = check_iscsi_name(said["InitiatorName"])
        except IscsiNameError as error:
            raise _RefusedError(LoginStatus.INITIATOR_ERROR, str(error)) from None
        self.initiator_alias = said.get("InitiatorAlias", "")[:255]
        kind = said.get("SessionType", "Normal")
        if kind not in ("Normal", "Discovery"):
            raise _RefusedError(LoginStatus.SESSION_TYPE_NOT_SUPPORTED, f"SessionType={kind[:40]}")
        self.discovery = kind == "Discovery"
        if self.discovery:
            self.negotiator = Negotiator(self._config.limits.values(), discovery=True)
            return []
        if "TargetName" not in said:
            raise _RefusedError(LoginStatus.MISSING_PARAMETER, "TargetName is missing")
        if said["TargetName"].lower() != self._config.name:
            raise _RefusedError(LoginStatus.NOT_FOUND, f"there is no target {said['TargetName'][:223]}")
        alias = [] if self._config.alias is None else [("TargetAlias", self._config.alias)]
        return [*alias, ("TargetPortalGroupTag", str(self._config.portal_group_tag))]

    def _security(self, pairs: _Pairs) -> _Pairs:
        said = dict(pairs)
        rest = [(name, value) for name, value in pairs if not _of_authentication(name)]
        answers = self.negotiator.receive(rest, KeyUse.SECURITY)
        if "AuthMethod" in said:
            answers.append(("AuthMethod", self._choose_method(said["AuthMethod"])))
        if "CHAP_A" in said:
            answers += self._challenge_initiator(said["CHAP_A"])
        if "CHAP_N" in said or "CHAP_R" in said:
            answers += self._check_response(said)
        return answers

    def _choose_method(self, offer: str) -> str:
        wanted = "None" if self._config.credentials is None else "CHAP"
        if wanted not in offer.split(","):
            raise _RefusedError(
                LoginStatus.AUTHENTICATION_FAILURE, f"AuthMethod={offer[:80]} does not have {wanted}"
            )
        self._method = wanted
        return wanted

    def _challenge_initiator(self, offer: str) -> _Pairs:
        algorithm = choose_algorithm(offer, md5=self._config.chap_md5)
        if algorithm is None and MD5 in offer.split(","):
            raise _RefusedError(
                LoginStatus.AUTHENTICATION_FAILURE,
                "the initiator has no other algorithm for CHAP than MD5, which this target does not accept",
            )
        if self._method != "CHAP" or self._challenge or algorithm is None:
            raise _RefusedError(LoginStatus.AUTHENTICATION_FAILURE, f"CHAP_A={offer[:80]} cannot be used")
        self._algorithm = algorithm
        self._identifier = self._entropy(1)[0]
        self._challenge = self._entropy(CHALLENGE_LENGTH)
        return [
            ("CHAP_A", algorithm),
            ("CHAP_I", str(self._identifier)),
            ("CHAP_C", encode_binary(self._challenge)),
        ]

    def _check_response(self, said: dict[str, str]) -> _Pairs:
        """Admit the initiator if it knows the secret, and only then answer its challenge."""
        credentials, challenge = self._config.credentials, self._challenge
        # A challenge is used once; a second response would be a second guess.
        self._challenge = b""
        if credentials is None or not challenge:
            raise _RefusedError(LoginStatus.AUTHENTICATION_FAILURE, "a CHAP response without a challenge")
        response = decode_binary("CHAP_R", said.get("CHAP_R", ""))
        expected = chap_response(self._algorithm, self._identifier, credentials.secret, challenge)
        if not verify(credentials, said.get("CHAP_N", ""), response, expected):
            raise _RefusedError(LoginStatus.AUTHENTICATION_FAILURE, "CHAP user or secret is wrong")
        answers = self._show_itself(said, challenge) if "CHAP_C" in said or "CHAP_I" in said else []
        self._authenticated = True
        return answers

    def _show_itself(self, said: dict[str, str], sent: bytes) -> _Pairs:
        credentials = self._config.mutual_credentials
        if credentials is None:
            raise _RefusedError(
                LoginStatus.AUTHENTICATION_FAILURE, "this target does not authenticate itself"
            )
        challenge = decode_binary("CHAP_C", said.get("CHAP_C", ""))
        if challenge == sent:
            # RFC 7143 12.1.3: the initiator may want this target to answer the target's own challenge.
            raise _RefusedError(LoginStatus.AUTHENTICATION_FAILURE, "the initiator reflects the challenge")
        identifier = parse_identifier(said.get("CHAP_I", ""))
        response = chap_response(self._algorithm, identifier, credentials.secret, challenge)
        return [("CHAP_N", credentials.user), ("CHAP_R", encode_binary(response))]


def _of_authentication(name: str) -> bool:
    return name == "AuthMethod" or name.startswith("CHAP_")
