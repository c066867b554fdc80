"""What is done on a LUN in each state of a handover, as steps that any path, or a test, can run.

`steps_of` gives the steps of one kind of `Work` on one LUN. They take the LUN as the handover knows it and
return it as it is known afterwards. Work is done on all LUNs of a guest at once.

Rules for whoever edits this file: all work may run twice, from its beginning, after a crash in the middle of
it, and must then end in the same. An answer that never came is neither failure nor success: the steps ask
the LUN, or repeat a command whose repetition shows what is true. No step may unregister a nexus that holds a
reservation of a type other than all registrants: that would free it. Nothing may name a key in a PREEMPT that
could stand on a third nexus.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from holdover.handover.moving import MovingLun
from holdover.handover.steps import Steps
from holdover.handover.work_alone import claim, evict, isolate, take
from holdover.handover.work_destination import (
    assure,
    give_back,
    preempt_from_source,
    probe,
    register,
    verify,
    withdraw,
)
from holdover.handover.work_source import (
    ask_whether_lost,
    clear_attentions,
    confirm,
    give,
    reclaim,
    take_back,
    yield_up,
)

__all__ = ["Work", "steps_of"]


class Work(Enum):
    """What is done on the LUNs. `DRAIN` is the host's own: no command of ours reaches the LUN."""

    CHECK = "check"
    """Source, before the destination is asked: is what was tracked true?"""
    CONFIRM = "confirm"
    """Source, after the destination has registered: is it still true, and is the key on third nexuses?"""
    DRAIN = "drain"
    """Source: the gate is shut; wait for the guest's commands in flight."""
    GIVE = "give"
    """Source: re-key or unregister where the destination's PREEMPT alone would hurt a third or do nothing."""
    SETTLE = "settle"
    """Source: clear the unit attentions that the handover has left on its nexus."""
    YIELD = "yield"
    """Source, when the destination has taken everything without it: remove what may be left."""
    ASK = "ask"
    """Roll back, source: has its registration been lost?"""
    RECLAIM = "reclaim"
    """Roll back, source: its registration as it was."""
    TAKE_BACK = "take back"
    """Roll back, source: PREEMPT where the reservation has moved."""
    ISOLATE = "isolate"
    """Roll back, source, while the destination cannot be asked: a key on its nexus that the other has not."""
    EVICT = "evict"
    """Roll back, source, while the destination cannot be asked: remove its registration."""
    REGISTER = "register"
    """Destination: the guest's key on its nexus."""
    PREEMPT = "preempt"
    """Destination: move the reservation."""
    PROBE = "probe"
    """Roll back, destination: the gate is shut; is the guest's key on its nexus?"""
    RETURN = "return"
    """Roll back, destination: unregister, or make ready for the source's PREEMPT."""
    VERIFY = "verify"
    """Destination, when the guest runs there: is all as it should be, for third nexuses too?"""
    CLAIM = "claim"
    """Destination, when the source is dead: can everything be moved without it?"""
    ASSURE = "assure"
    """Destination, when the source is dead: is all as it should be, before everything is called taken?"""
    TAKE = "take"
    """Destination, when the source is dead: move everything without it."""
    WITHDRAW = "withdraw"
    """Destination, when the source has rolled back without it: remove what may be left."""


def steps_of(work: Work, lun: MovingLun, *, stale: bool = False) -> Steps[MovingLun]:
    """The steps of ``work`` on one LUN.

    Args:
        work: What is done.
        lun: What is known of the LUN.
        stale: ``lun.tracked`` may be wrong (only looked at by `Work.CHECK` and `Work.CONFIRM`).

    Returns:
        The LUN as it is known afterwards.

    Raises:
        StepFailed: It cannot be done; the message says what is true.
    """
    if not lun.migrate_pr or work is Work.DRAIN:
        return _nothing(lun)
    if work is Work.CHECK:
        return confirm(lun, lun.source_nexuses, stale)
    if work is Work.CONFIRM:
        return confirm(lun, lun.source_nexuses + lun.destination_nexuses, stale)
    return _STEPS[work](lun)


def _nothing(lun: MovingLun) -> Steps[MovingLun]:
    yield from ()
    return lun


_STEPS: dict[Work, Callable[[MovingLun], Steps[MovingLun]]] = {
    Work.GIVE: give,
    Work.SETTLE: clear_attentions,
    Work.YIELD: yield_up,
    Work.ASK: ask_whether_lost,
    Work.RECLAIM: reclaim,
    Work.TAKE_BACK: take_back,
    Work.ISOLATE: isolate,
    Work.EVICT: evict,
    Work.REGISTER: register,
    Work.PREEMPT: preempt_from_source,
    Work.PROBE: probe,
    Work.RETURN: give_back,
    Work.VERIFY: verify,
    Work.CLAIM: claim,
    Work.ASSURE: assure,
    Work.TAKE: take,
    Work.WITHDRAW: withdraw,
}
