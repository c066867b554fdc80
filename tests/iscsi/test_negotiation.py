"""Negotiation: what both sides come to, and that they come to the same."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.iscsi.digest import Digest
from holdover.iscsi.errors import TextError
from holdover.iscsi.negotiation import NegotiationLimits, Negotiator
from holdover.iscsi.text import KEYS, KeyUse

digests = st.permutations(list(Digest)).map(tuple) | st.sampled_from(Digest).map(lambda only: (only,))
limits = st.builds(
    NegotiationLimits,
    initial_r2t=st.booleans(),
    immediate_data=st.booleans(),
    max_recv_data_segment_length=st.integers(512, 0xFFFFFF),
    max_burst_length=st.integers(512, 0xFFFFFF),
    first_burst_length=st.integers(512, 0xFFFFFF),
    max_outstanding_r2t=st.integers(1, 65535),
    header_digests=digests,
    data_digests=digests,
)


@given(limits, limits)
def test_both_sides_come_to_the_same(initiator: NegotiationLimits, target: NegotiationLimits) -> None:
    one, other = Negotiator(initiator.values()), Negotiator(target.values())
    answers = other.receive(one.offers(), KeyUse.OPERATIONAL) + other.declaration()
    for ours, theirs in (
        (initiator.header_digests, target.header_digests),
        (initiator.data_digests, target.data_digests),
    ):
        if not set(ours) & set(theirs):
            if Digest.NONE not in ours:
                with pytest.raises(TextError, match="Digest: the peer answers CRC32C with Reject"):
                    one.receive(answers, KeyUse.OPERATIONAL)
            return
    assert one.receive(answers, KeyUse.OPERATIONAL) == []
    mine, yours = one.parameters(), other.parameters()
    for name in (
        "initial_r2t",
        "immediate_data",
        "max_burst_length",
        "first_burst_length",
        "max_outstanding_r2t",
    ):
        assert getattr(mine, name) == getattr(yours, name)
    assert mine.header_digest is yours.header_digest
    assert mine.data_digest is yours.data_digest
    assert mine.header_digest is next(
        each for each in initiator.header_digests if each in target.header_digests
    )
    assert mine.initial_r2t == (initiator.initial_r2t or target.initial_r2t)
    assert mine.immediate_data == (initiator.immediate_data and target.immediate_data)
    assert mine.max_burst_length == min(initiator.max_burst_length, target.max_burst_length)
    assert mine.first_burst_length <= mine.max_burst_length
    assert mine.max_send_data_segment_length == target.max_recv_data_segment_length
    assert yours.max_send_data_segment_length == initiator.max_recv_data_segment_length
    assert mine.max_recv_data_segment_length == yours.max_send_data_segment_length


def test_the_defaults_hold_where_nobody_speaks() -> None:
    parameters = Negotiator(NegotiationLimits().values()).parameters()
    assert parameters.initial_r2t
    assert parameters.immediate_data
    assert parameters.max_send_data_segment_length == 8192
    assert parameters.max_recv_data_segment_length == 8192
    assert (parameters.max_burst_length, parameters.first_burst_length) == (262144, 65536)
    assert parameters.immediate_length == 8192


@pytest.mark.parametrize(
    ("name", "offer", "answer"),
    [
        ("HeaderDigest", "CRC32C,None", "CRC32C"),
        ("DataDigest", "None,CRC32C", "None"),
        ("HeaderDigest", "MD5", "Reject"),
        ("MaxConnections", "8", "1"),
        ("MaxConnections", "0", "Reject"),
        ("InitialR2T", "maybe", "Reject"),
        ("ErrorRecoveryLevel", "2", "0"),
        ("DefaultTime2Wait", "0", "2"),
        ("DefaultTime2Wait", "9", "9"),
        ("DataPDUInOrder", "No", "Yes"),
        ("MaxBurstLength", "99999999999", "Reject"),
        ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
        ("iSCSIProtocolLevel", "2", "1"),
        ("IFMarker", "Yes", "No"),
        ("OFMarkInt", "2048~8192", "Reject"),
        ("X-com.example.Key", "1", "NotUnderstood"),
        ("SendTargets", "All", "Reject"),
    ],
)
def test_answers_to_offers(name: str, offer: str, answer: str) -> None:
    negotiator = Negotiator(NegotiationLimits().values())
    assert negotiator.receive([(name, offer)], KeyUse.OPERATIONAL) == [(name, answer)]


@pytest.mark.parametrize("reverse", [False, True])
def test_first_burst_length_is_answered_within_max_burst_length(reverse: bool) -> None:
    """RFC 7143 13.14, in whichever order the two keys stand."""
    negotiator = Negotiator(NegotiationLimits().values())
    offer = [("FirstBurstLength", "1048576"), ("MaxBurstLength", "65536")]
    answers = negotiator.receive(offer[::-1] if reverse else offer, KeyUse.OPERATIONAL)
    assert dict(answers) == {"FirstBurstLength": "65536", "MaxBurstLength": "65536"}
    assert negotiator.parameters().first_burst_length == 65536


def test_first_burst_length_stays_within_a_max_burst_length_that_nobody_offers() -> None:
    negotiator = Negotiator(NegotiationLimits(first_burst_length=1 << 20).values())
    assert negotiator.receive([("FirstBurstLength", "1048576")], KeyUse.OPERATIONAL) == [
        ("FirstBurstLength", "262144")
    ]


@given(st.permutations(["FirstBurstLength", "MaxBurstLength"]), limits, st.data())
def test_no_answer_breaks_the_relation_of_the_burst_lengths(
    order: list[str], target: NegotiationLimits, data: st.DataObject
) -> None:
    offer = [(name, str(data.draw(st.integers(512, 0xFFFFFF)))) for name in order]
    answers = dict(Negotiator(target.values()).receive(offer, KeyUse.OPERATIONAL))
    assert int(answers["FirstBurstLength"]) <= int(answers["MaxBurstLength"])


def test_an_initiator_keeps_within_the_burst_of_a_target_that_breaks_the_relation() -> None:
    negotiator = Negotiator(NegotiationLimits(first_burst_length=262144, max_burst_length=1 << 20).values())
    negotiator.offers()
    negotiator.receive([("FirstBurstLength", "262144"), ("MaxBurstLength", "65536")], KeyUse.OPERATIONAL)
    assert negotiator.parameters().first_burst_length == 65536


def test_a_declaration_has_no_answer() -> None:
    negotiator = Negotiator(NegotiationLimits().values())
    pairs = [("MaxRecvDataSegmentLength", "4096"), ("InitiatorAlias", "x")]
    assert negotiator.receive(pairs, KeyUse.OPERATIONAL) == []
    assert negotiator.parameters().max_send_data_segment_length == 4096


def test_a_length_may_be_declared_anew_in_full_feature_phase_and_nothing_else_negotiated() -> None:
    negotiator = Negotiator(NegotiationLimits().values())
    pairs = [("MaxRecvDataSegmentLength", "600"), ("MaxBurstLength", "512")]
    assert negotiator.receive(pairs, KeyUse.FULL_FEATURE) == [("MaxBurstLength", "Reject")]
    assert negotiator.parameters().max_send_data_segment_length == 600


def test_a_second_offer_for_the_same_key_is_rejected() -> None:
    negotiator = Negotiator(NegotiationLimits().values())
    pair = [("MaxBurstLength", "1024")]
    assert negotiator.receive(pair, KeyUse.OPERATIONAL) == pair
    assert negotiator.receive(pair, KeyUse.OPERATIONAL) == [("MaxBurstLength", "Reject")]


def test_what_discovery_has_no_use_for_is_irrelevant() -> None:
    negotiator = Negotiator(NegotiationLimits().values(), discovery=True)
    assert negotiator.receive([("InitialR2T", "Yes")], KeyUse.OPERATIONAL) == [("InitialR2T", "Irrelevant")]
    assert {name for name, _ in negotiator.offers()} == {
        "HeaderDigest",
        "DataDigest",
        "MaxRecvDataSegmentLength",
        "DefaultTime2Wait",
        "DefaultTime2Retain",
        "ErrorRecoveryLevel",
    }


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("MaxBurstLength", "1048577"),
        ("MaxBurstLength", "x"),
        ("InitialR2T", "maybe"),
        ("ImmediateData", "perhaps"),
        ("HeaderDigest", "MD5"),
        ("DefaultTime2Wait", "1"),
    ],
)
def test_an_answer_that_the_offer_does_not_allow_is_refused(name: str, answer: str) -> None:
    negotiator = Negotiator(NegotiationLimits().values())
    negotiator.offers()
    with pytest.raises(TextError, match=name):
        negotiator.receive([(name, answer)], KeyUse.OPERATIONAL)


def test_an_answer_that_stands_for_no_value_leaves_the_default() -> None:
    negotiator = Negotiator(NegotiationLimits().values())
    negotiator.offers()
    negotiator.receive([("InitialR2T", "NotUnderstood"), ("MaxBurstLength", "Reject")], KeyUse.OPERATIONAL)
    assert negotiator.parameters().initial_r2t
    assert negotiator.parameters().max_burst_length == 262144


@settings(max_examples=500)
@given(
    st.lists(st.tuples(st.sampled_from([*KEYS, "X-a", "IFMarker"]), st.text(max_size=20)), max_size=10),
    st.sampled_from([KeyUse.SECURITY, KeyUse.OPERATIONAL, KeyUse.FULL_FEATURE]),
    st.booleans(),
)
def test_any_pairs_are_answered_or_refused(
    pairs: list[tuple[str, str]], where: KeyUse, offered: bool
) -> None:
    negotiator = Negotiator(NegotiationLimits().values())
    if offered:
        negotiator.offers()
    with contextlib.suppress(TextError):
        negotiator.receive(pairs, where)
    assert negotiator.parameters().max_burst_length >= 512
