"""The answer to SendTargets, in whatever parts it comes."""

from __future__ import annotations

import pytest

from holdover.iscsi.errors import ProtocolError
from holdover.iscsi.initiator.targets_text import TargetsText
from holdover.iscsi.text import MAX_TEXT, decode_text

_PAIRS = (("TargetName", "iqn.a"), ("TargetAddress", "1.2.3.4:3260,1"), ("TargetName", "iqn.b"))
_ANSWER = b"".join(f"{key}={value}\0".encode() for key, value in _PAIRS)


def test_the_question_names_what_is_wanted() -> None:
    assert decode_text(TargetsText(7, "All").question) == [("SendTargets", "All")]


@pytest.mark.parametrize("cut", range(len(_ANSWER)))
def test_parts_are_one_answer(cut: int) -> None:
    text = TargetsText(7, "All")
    text.take(_ANSWER[:cut])
    text.take(_ANSWER[cut:])
    assert text.answer == _PAIRS


def test_an_answer_without_end_is_refused() -> None:
    text = TargetsText(7, "All")
    for _ in range(64):
        text.take(bytes(MAX_TEXT))
    with pytest.raises(ProtocolError, match="no end"):
        text.take(b"x")
