"""Negotiation of operational parameters, the same for both sides (RFC 7143 6.2).

A `Negotiator` gets the wishes of this side, makes offers, and takes the keys of the peer. Each key from the
peer is either the answer to an offer of this side, or an offer that this side must answer. The table
`text.KEYS` has the rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from holdover.iscsi.digest import Digest
from holdover.iscsi.errors import TextError
from holdover.iscsi.text import KEYS, Key, KeyUse, TextKeyRule, parse_boolean, parse_number

_OBSOLETE = {"IFMarker": "No", "OFMarker": "No", "IFMarkInt": "Reject", "OFMarkInt": "Reject"}
"""The answers to the keys that RFC 7143 13.25 has made obsolete."""

_WORDS = frozenset({"NotUnderstood", "Irrelevant", "Reject"})
"""The answers that are not values (RFC 7143 6.2)."""


@dataclass(frozen=True, slots=True)
class NegotiationLimits:
    """The wishes and limits of one side; lengths are in bytes.

    Attributes:
        initial_r2t: Whether this side refuses unsolicited Data-Out PDUs.
        immediate_data: Whether a SCSI Command PDU may carry data.
        max_recv_data_segment_length: The longest data segment that this side takes in full feature phase.
        max_burst_length: The longest sequence of Data-In, or of solicited Data-Out PDUs.
        first_burst_length: The most unsolicited data of one command, immediate data included.
        max_outstanding_r2t: The most open R2Ts of one command.
        header_digests, data_digests: The digests that this side supports, the preferred one first.
    """

    initial_r2t: bool = False
    immediate_data: bool = True
    max_recv_data_segment_length: int = 262144
    max_burst_length: int = 1048576
    first_burst_length: int = 262144
    max_outstanding_r2t: int = 4
    header_digests: tuple[Digest, ...] = (Digest.NONE, Digest.CRC32C)
    data_digests: tuple[Digest, ...] = (Digest.NONE, Digest.CRC32C)

    def values(self) -> dict[str, str]:
        """The limits as key=value text, with the keys for which this implementation has only one choice."""
        return {
            "HeaderDigest": ",".join(self.header_digests),
            "DataDigest": ",".join(self.data_digests),
            "MaxConnections": "1",
            "InitialR2T": "Yes" if self.initial_r2t else "No",
            "ImmediateData": "Yes" if self.immediate_data else "No",
            "MaxRecvDataSegmentLength": str(self.max_recv_data_segment_length),
            "MaxBurstLength": str(self.max_burst_length),
            "FirstBurstLength": str(min(self.first_burst_length, self.max_burst_length)),
            "DefaultTime2Wait": "2",
            "DefaultTime2Retain": "0",
            "MaxOutstandingR2T": str(self.max_outstanding_r2t),
            "DataPDUInOrder": "Yes",
            "DataSequenceInOrder": "Yes",
            "ErrorRecoveryLevel": "0",
        }


@dataclass(frozen=True, slots=True)
class Parameters:
    """The negotiated parameters of a session, with the fields of `NegotiationLimits`; lengths are in bytes.

    Attributes:
        max_send_data_segment_length: The longest data segment that the peer takes.
        max_recv_data_segment_length: The longest data segment that this side takes.
    """

    initial_r2t: bool = True
    immediate_data: bool = True
    max_send_data_segment_length: int = 8192
    max_recv_data_segment_length: int = 8192
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    max_outstanding_r2t: int = 1
    header_digest: Digest = Digest.NONE
    data_digest: Digest = Digest.NONE

    @property
    def digests(self) -> bool:
        """Whether the two sides agreed on a digest."""
        return self.header_digest is not Digest.NONE or self.data_digest is not Digest.NONE

    @property
    def immediate_length(self) -> int:
        """The most immediate data that this side may send with one command."""
        return min(self.first_burst_length, self.max_send_data_segment_length) if self.immediate_data else 0


class Negotiator:
    """One side of the negotiation of one connection."""

    def __init__(self, ours: Mapping[str, str], *, discovery: bool = False) -> None:
        self._ours = dict(ours)
        self._discovery = discovery
        self._offered: set[str] = set()
        self._agreed: dict[str, str] = {}
        self._declared: dict[str, str] = {}
        self._ours_declared = False

    def offers(self) -> list[tuple[str, str]]:
        """All wishes of this side, with which an initiator opens the operational stage."""
        pairs = []
        for name, value in self._ours.items():
            key = KEYS[name]
            if self._discovery and key.normal_only:
                continue
            if key.rule is not TextKeyRule.DECLARED_NUMBER:
                self._offered.add(name)
            pairs.append((name, value))
        self._ours_declared = True
        return pairs

    def declaration(self) -> list[tuple[str, str]]:
        """The target's declaration, which it sends once, with its first operational answers."""
        if self._ours_declared:
            return []
        self._ours_declared = True
        name = "MaxRecvDataSegmentLength"
        return [(name, self._ours[name])]

    def receive(self, pairs: Iterable[tuple[str, str]], where: KeyUse) -> list[tuple[str, str]]:
        """Take the peer's keys; returns the answers to send.

        Raises:
            TextError: The peer answers an offer of this side with a value that the offer does not allow.
        """
        answers: list[tuple[str, str]] = []
        for name, value in pairs:
            if name in self._offered:
                self._offered.discard(name)
                self._take_answer(name, value)
            elif (answer := self._answer(name, value, where)) is not None:
                answers.append((name, answer))
        return [(name, self._within_burst(name, answer)) for name, answer in answers]

    def parameters(self) -> Parameters:
        """The agreed parameters, with the defaults of RFC 7143 for keys that no side sent."""

        def value(name: str) -> str:
            return self._agreed.get(name, KEYS[name].default)

        mine = "MaxRecvDataSegmentLength"
        max_burst = int(value("MaxBurstLength"))
        return Parameters(
            initial_r2t=value("InitialR2T") == "Yes",
            immediate_data=value("ImmediateData") == "Yes",
            max_send_data_segment_length=int(self._declared.get(mine, KEYS[mine].default)),
            max_recv_data_segment_length=int(self._ours[mine] if self._ours_declared else KEYS[mine].default),
            max_burst_length=max_burst,
            first_burst_length=min(int(value("FirstBurstLength")), max_burst),
            max_outstanding_r2t=int(value("MaxOutstandingR2T")),
            header_digest=Digest(value("HeaderDigest")),
            data_digest=Digest(value("DataDigest")),
        )

    def _answer(self, name: str, value: str, where: KeyUse) -> str | None:
        """The answer to an offer; None for a declaration, which needs no answer."""
        if name in _OBSOLETE:
            return _OBSOLETE[name]
        key = KEYS.get(name)
        if key is None:
            # The peer answers an offer that this side did not make, so no answer is needed.
            return None if value == "NotUnderstood" else "NotUnderstood"
        if not _stands_in(key, where) or name in self._agreed:
            return "Reject"
        try:
            if key.rule in (TextKeyRule.DECLARED_NUMBER, TextKeyRule.DECLARED_TEXT):
                if key.rule is TextKeyRule.DECLARED_NUMBER:
                    value = str(parse_number(name, value))
                self._declared[name] = value
                return None
            if self._discovery and key.normal_only:
                return "Irrelevant"
            result = _combine(name, key.rule, value, self._ours.get(name, key.default))
        except TextError:
            return "Reject"
        if result is None:
            return "Reject"
        self._agreed[name] = result
        return result

    def _within_burst(self, name: str, answer: str) -> str:
        """The final answer when all keys of a text are known (RFC 7143 13.14).

        FirstBurstLength must not exceed MaxBurstLength, in any order of the two keys.
        """
        if name != "FirstBurstLength" or name not in self._agreed:
            return answer
        max_burst = self._agreed.get("MaxBurstLength", KEYS["MaxBurstLength"].default)
        self._agreed[name] = str(min(int(self._agreed[name]), int(max_burst)))
        return answer if answer == "Reject" else self._agreed[name]

    def _take_answer(self, name: str, value: str) -> None:
        """Check that this side's offer allows the peer's answer, and take the answer."""
        rule = KEYS[name].rule
        ours = self._ours[name]
        if value in _WORDS:
            if rule is TextKeyRule.LIST and KEYS[name].default not in ours.split(","):
                raise TextError(f"{name}: the peer answers {ours} with {value}")
            return
        if rule is TextKeyRule.LIST:
            allowed = value in ours.split(",")
        elif rule in (TextKeyRule.AND, TextKeyRule.OR):
            allowed = parse_boolean(name, value) is (rule is TextKeyRule.OR) or value == ours
        else:
            difference = parse_number(name, value) - int(ours)
            allowed = difference <= 0 if rule is TextKeyRule.MINIMUM else difference >= 0
        if not allowed:
            raise TextError(f"{name}: the peer answers {ours} with {value}, which that does not allow")
        self._agreed[name] = value


def _stands_in(key: Key, where: KeyUse) -> bool:
    allowed = {
        KeyUse.ANY: (KeyUse.SECURITY, KeyUse.OPERATIONAL, KeyUse.FULL_FEATURE),
        KeyUse.LOGIN: (KeyUse.SECURITY, KeyUse.OPERATIONAL),
        KeyUse.OPERATIONAL_AND_FULL_FEATURE: (KeyUse.OPERATIONAL, KeyUse.FULL_FEATURE),
    }
    return where in allowed.get(key.where, (key.where,))


def _combine(name: str, rule: TextKeyRule, theirs: str, ours: str) -> str | None:
    """The value from an offer and this side's wish; None when two lists have nothing in common."""
    if rule is TextKeyRule.LIST:
        mine = ours.split(",")
        return next((choice for choice in theirs.split(",") if choice in mine), None)
    if rule is TextKeyRule.AND:
        return "Yes" if parse_boolean(name, theirs) and ours == "Yes" else "No"
    if rule is TextKeyRule.OR:
        return "Yes" if parse_boolean(name, theirs) or ours == "Yes" else "No"
    number = parse_number(name, theirs)
    return str(min(number, int(ours)) if rule is TextKeyRule.MINIMUM else max(number, int(ours)))
