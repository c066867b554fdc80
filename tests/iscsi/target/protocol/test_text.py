"""Text in full feature phase."""

from __future__ import annotations

from holdover.iscsi.numbers import NO_TAG
from holdover.iscsi.requests import ScsiCommand, TextRequest
from holdover.iscsi.responses import Reject, TextResponse
from holdover.iscsi.text import decode_text, encode_text
from holdover.scsi.command import Response
from holdover.scsi.status import Status
from tests.iscsi.pair import TARGET, RawInitiator


def test_text_in_a_normal_session() -> None:
    peer = RawInitiator()
    text = encode_text([("SendTargets", ""), ("X-a", "1")])
    (answer,) = peer.send(TextRequest(1, NO_TAG, 1, text))
    assert isinstance(answer, TextResponse)
    assert (answer.final, answer.target_tag) == (True, NO_TAG)
    assert decode_text(answer.data) == [
        ("TargetName", TARGET),
        ("TargetAddress", "127.0.0.1:3260,1"),
        ("X-a", "NotUnderstood"),
    ]
    (answer,) = peer.send(TextRequest(2, NO_TAG, 2, encode_text([("SendTargets", "All")])))
    assert isinstance(answer, TextResponse)
    assert decode_text(answer.data) == [("SendTargets", "Reject")]


def test_a_declared_length_holds_from_then_on() -> None:
    peer = RawInitiator()
    peer.send(TextRequest(1, NO_TAG, 1, encode_text([("MaxRecvDataSegmentLength", "512")])))
    peer.send(ScsiCommand(10, 0, bytes(16), 8192, 2, read=True))
    peer.session.respond(10, Response(Status.GOOD, bytes(1024)))
    assert len(peer.answers()) == 2


def test_text_in_pieces() -> None:
    peer = RawInitiator()
    (first,) = peer.send(TextRequest(1, NO_TAG, 1, b"SendTar", final=False, more=True))
    assert isinstance(first, TextResponse)
    assert (first.final, first.data) == (False, b"")
    (second,) = peer.send(TextRequest(1, first.target_tag, 2, b"gets=\0"))
    assert isinstance(second, TextResponse)
    assert second.data.startswith(b"TargetName=")
    # That exchange is over.
    (third,) = peer.send(TextRequest(1, first.target_tag, 3, b""))
    assert isinstance(third, Reject)


def test_text_without_end() -> None:
    peer = RawInitiator()
    (answer,) = peer.send(TextRequest(1, NO_TAG, 1, bytes(16384), final=False, more=True))
    assert isinstance(answer, TextResponse)
    (reject,) = peer.send(TextRequest(1, answer.target_tag, 2, b"x", final=False, more=True))
    assert isinstance(reject, Reject)
