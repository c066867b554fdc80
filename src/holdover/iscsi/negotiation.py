"""Negotiation of operational parameters, the same for both sides (RFC 7143 6.2).

A `Negotiator` is given what this side wants, makes its offers, and is shown what the peer says. Each
key the peer sends is either the answer to an offer of this side or an offer to be answered; the
table `text.KEYS` says how.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from holdover.iscsi.digest import Digest
from holdover.iscsi.errors import TextError
from holdover.iscsi.text import KEYS, Key, Rule, Where, parse_boolean, parse_number

__all__ = ["Limits", "Negotiator", "Parameters"]

_OBSOLETE = {"IFMarker": "No", "OFMarker": "No", "IFMarkInt": "Reject", "OFMarkInt": "Reject"}
"""Answers to the keys that RFC 7143 13.25 took out of use."""

_WORDS = frozenset({"NotUnderstood", "Irrelevant", "Reject"})
"""Answers that stand for no value (RFC 7143 6.2)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one side wants and can bear; lengths in bytes.

    Attributes:
        initial_r2t: Whether unsolicited Data-Out PDUs are unwanted.
        immediate_data: Whether a SCSI Command PDU may carry data.
        max_recv_data_segment_length: Longest data segment this side takes in full feature phase.
        max_burst_length: Longest sequence of Data-In, or of solicited Data-Out PDUs.
        first_burst_length: Most unsolicited data of one command, immediate data included.
        max_outstanding_r2t: R2Ts that one command may have open.
        header_digests, data_digests: Those that this side has, the one it likes best first.
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
        """The same as key=value text, with what this implementation has but one choice for."""
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
    """What holds for a session; lengths in bytes. As `Limits`, but agreed.

    Attributes:
        max_send_data_segment_length: Longest data segment the peer takes.
        max_recv_data_segment_length: Longest data segment this side takes.
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
        """Whether any digest was agreed upon."""
        return self.header_digest is not Digest.NONE or self.data_digest is not Digest.NONE

    @property
    def immediate_length(self) -> int:
        """Most immediate data this side may send along with one command."""
        return min(self.first_burst_length, self.max_send_data_segment_length) if self.immediate_data else 0


class Negotiator:
    """One side's part in the negotiation of one connection."""

    def __init__(self, ours: Mapping[str, str], *, discovery: bool = False) -> None:
        self._ours = dict(ours)
        self._discovery = discovery
        self._offered: set[str] = set()
        self._agreed: dict[str, str] = {}
        self._declared: dict[str, str] = {}
        self._ours_declared = False

    def offers(self) -> list[tuple[str, str]]:
        """Everything this side wants, as the initiator opens the operational stage with it."""
        pairs = []
        for name, value in self._ours.items():
            key = KEYS[name]
            if self._discovery and key.normal_only:
                continue
            if key.rule is not Rule.DECLARED_NUMBER:
                self._offered.add(name)
            pairs.append((name, value))
        self._ours_declared = True
        return pairs

    def declaration(self) -> list[tuple[str, str]]:
        """What the target declares of itself, once, beside its first operational answers."""
        if self._ours_declared:
            return []
        self._ours_declared = True
        name = "MaxRecvDataSegmentLength"
        return [(name, self._ours[name])]

    def receive(self, pairs: Iterable[tuple[str, str]], where: Where) -> list[tuple[str, str]]:
        """Take in what the peer says; return the answers that are due.

        Raises:
            TextError: for an answer to one of this side's offers that the offer does not allow.
        """
        answers: list[tuple[str, str]] = []
        for name, value in pairs:
            if name in self._offered:
                self._offered.discard(name)
                self._take_answer(name, value)
            elif (answer := self._answer(name, value, where)) is not None:
                answers.append((name, answer))
        return answers

    def parameters(self) -> Parameters:
        """What has been agreed; the defaults of RFC 7143 where nobody spoke."""

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

    def _answer(self, name: str, value: str, where: Where) -> str | None:
        """The answer to an offer, None where none is due (a declaration)."""
        if name in _OBSOLETE:
            return _OBSOLETE[name]
        key = KEYS.get(name)
        if key is None:
            # An answer that stands for no value, to a question nobody asked, is not worth another.
            return None if value == "NotUnderstood" else "NotUnderstood"
        if not _stands_in(key, where) or name in self._agreed:
            return "Reject"
        try:
            if key.rule in (Rule.DECLARED_NUMBER, Rule.DECLARED_TEXT):
                if key.rule is Rule.DECLARED_NUMBER:
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

    def _take_answer(self, name: str, value: str) -> None:
        """Check that the peer's answer is one that our offer allows; then it holds."""
        rule = KEYS[name].rule
        ours = self._ours[name]
        if value in _WORDS:
            if rule is Rule.LIST and KEYS[name].default not in ours.split(","):
                raise TextError(f"{name}: the peer answers {ours} with {value}")
            return
        if rule is Rule.LIST:
            allowed = value in ours.split(",")
        elif rule in (Rule.AND, Rule.OR):
            allowed = parse_boolean(name, value) is (rule is Rule.OR) or value == ours
        else:
            difference = parse_number(name, value) - int(ours)
            allowed = difference <= 0 if rule is Rule.MINIMUM else difference >= 0
        if not allowed:
            raise TextError(f"{name}: the peer answers {ours} with {value}, which that does not allow")
        self._agreed[name] = value


def _stands_in(key: Key, where: Where) -> bool:
    allowed = {
        Where.ANY: (Where.SECURITY, Where.OPERATIONAL, Where.FULL_FEATURE),
        Where.LOGIN: (Where.SECURITY, Where.OPERATIONAL),
        Where.OPERATIONAL_AND_FULL_FEATURE: (Where.OPERATIONAL, Where.FULL_FEATURE),
    }
    return where in allowed.get(key.where, (key.where,))


def _combine(name: str, rule: Rule, theirs: str, ours: str) -> str | None:
    """The value that an offer and our own wish come to; None where a list has nothing in common."""
    if rule is Rule.LIST:
        mine = ours.split(",")
        return next((choice for choice in theirs.split(",") if choice in mine), None)
    if rule is Rule.AND:
        return "Yes" if parse_boolean(name, theirs) and ours == "Yes" else "No"
    if rule is Rule.OR:
        return "Yes" if parse_boolean(name, theirs) or ours == "Yes" else "No"
    number = parse_number(name, theirs)
    return str(min(number, int(ours)) if rule is Rule.MINIMUM else max(number, int(ours)))
