"""The documents of the API."""

from __future__ import annotations

import msgspec
import pytest

from holdover.agent.api import Moved, Step, StepRequest


def test_a_request_survives_the_wire() -> None:
    moved = Moved(
        designator="naa.5000", key=1 << 63, type=8, scope=0, aptpl=True, shared=True, lost=True, prey=7
    )
    request = StepRequest(handover="h", devices=(moved,))
    assert msgspec.json.decode(msgspec.json.encode(request), type=StepRequest) == request


@pytest.mark.parametrize(
    "document",
    [
        '{"designator":"naa.1","key":0,"type":3}',
        '{"designator":"naa.1","key":1,"type":2}',
        '{"designator":"naa.1","key":-1}',
        '{"designator":"naa.1","key":18446744073709551616}',
        '{"designator":"naa.1","prey":-1}',
        '{"key":1}',
    ],
)
def test_what_no_guest_can_hold_is_refused(document: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(document, type=Moved)


def test_steps_are_named_by_their_words() -> None:
    assert [step.value for step in Step][:5] == ["leave", "register", "give", "preempt", "finish"]
