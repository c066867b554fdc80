"""Faults of every kind, as Hypothesis draws them."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import strategies as st

from holdover.faults.fault import Effect, Fault, When
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.status import Status

_Value = TypeVar("_Value")
_OPCODES = st.integers(0, 0xFF).filter(lambda each: each != OperationCode.REPORT_LUNS)


def _several(values: st.SearchStrategy[_Value]) -> st.SearchStrategy[tuple[_Value, ...]]:
    return st.lists(values, unique=True, max_size=3).map(tuple)


@st.composite
def faults(draw: st.DrawFn) -> Fault:
    """Any fault that can be written."""
    effect = draw(st.sampled_from(Effect))
    status = None
    if effect is Effect.STATUS:
        status = draw(st.sampled_from([Status.BUSY, Status.RESERVATION_CONFLICT, Status.TASK_SET_FULL]))
    latency = draw(st.integers(1 if effect is Effect.LATENCY else 0, 3_600_000_000))
    timed = effect is not Effect.STATUS and (latency > 0 or effect is not Effect.LOSE_RESPONSE)
    actions = draw(_several(st.integers(0, 0x1F)))
    opcodes = _several(_OPCODES) if not actions else st.sampled_from([(), (0x5F,)])
    counts = st.integers(1, 999_999_999)
    return Fault(
        effect=effect,
        latency=latency,
        status=status,
        when=draw(st.sampled_from(When)) if timed else When.BEFORE,
        opcodes=draw(opcodes),
        actions=actions,
        luns=draw(_several(st.integers(0, 16383))),
        initiators=draw(_several(st.text("abc.*?[]:-0", min_size=1, max_size=20))),
        probability=draw(st.floats(0, 1, exclude_min=True)),
        count=draw(counts if effect is Effect.POWER_LOSS else st.none() | counts),
        after=draw(st.integers(0, 999_999_999)),
    )
