"""The work on a LUN in each state of a handover, as steps that run over any path, or in a test.

`steps_of` returns the steps of one kind of `Work` on one LUN. The steps get the LUN as the handover knows it,
and return the LUN as it is known afterwards. The work runs on all LUNs of a guest at once.

Rules for whoever edits this file:

- All work may run again from its beginning, after a crash in the middle of it. The result must then be the
  same.
- A lost answer is neither failure nor success. The steps ask the LUN, or repeat a command if the second
  answer shows what is true.
- No step may unregister a nexus that holds a reservation, unless the type is all registrants: that would
  free the reservation.
- No PREEMPT may name a key that a third nexus may have.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial

import msgspec
from msgspec.structs import replace

from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.back import ascertain, assess, weigh
from holdover.handover.lun_work.destination import (
    assure,
    preempt_from_source,
    probe,
    reassure,
    recollect,
    register,
    verify,
    withdraw,
)
from holdover.handover.lun_work.give_back import give_back
from holdover.handover.lun_work.source import (
    ask_whether_lost,
    clear_attentions,
    collect,
    confirm,
    discard,
    give,
    reclaim,
    recount,
    take_back,
    wonder,
    yield_up,
)
from holdover.handover.lun_work.unilateral import claim, evict, isolate, take
from holdover.reservations.driver import StepRun
from holdover.reservations.questions import active_aptpl
from holdover.reservations.steps import StepFailed, Steps
from holdover.reservations.tracked import Tracked


class Work(Enum):
    """A kind of work on the LUNs. For `DRAIN`, the host waits and sends no command to the LUN."""

    CHECK = "check"
    """Source, before it asks the destination: check whether the tracked state is true."""
    CONFIRM = "confirm"
    """Source, after the destination has registered: check the tracked state again, and look for third nexuses
    that have the guest's key.
    """
    DRAIN = "drain"
    """Source: wait for the guest's commands in flight; the gate is shut."""
    GIVE = "give"
    """Source: change the key, or unregister, if the destination's PREEMPT alone would affect a third nexus,
    or would do nothing.
    """
    COLLECT = "collect"
    """Source, when the destination has found the guest fenced: collect the unit attentions that the source's
    nexus got for that.
    """
    SETTLE = "settle"
    """Source: clear the unit attentions that the handover has left on its nexus."""
    YIELD = "yield"
    """Source, when the destination has taken everything without the source: remove what may be left."""
    WONDER = "wonder"
    """Source, after a restart: check whether the source is still registered. Changes nothing."""
    DISCARD = "discard"
    """Source, while the guest runs: remove the spare key that the destination has left on paths that are
    away.
    """
    RECOUNT = "recount"
    """Source, after a restart before a commit: check whether the source is still registered. Changes
    nothing.
    """
    ASK = "ask"
    """Roll back, source: check whether the source has lost its registration."""
    RECLAIM = "reclaim"
    """Roll back, source: make the source's registration what it was before."""
    TAKE_BACK = "take back"
    """Roll back, source: send PREEMPT if the reservation has moved to the destination."""
    WEIGH = "weigh"
    """Roll back, source, while the destination cannot be asked: check that the LUN still has what was
    committed, and that the destination's registration can be removed without harm to a third node. Changes
    nothing.
    """
    ASSESS = "assess"
    """Roll back before a commit, source, while the destination cannot be asked: as `WEIGH`, and check that
    the destination has taken nothing. Changes nothing.
    """
    ISOLATE = "isolate"
    """Roll back, source, while the destination cannot be asked: register a key on the source's nexus that the
    destination does not have.
    """
    EVICT = "evict"
    """Roll back, source, while the destination cannot be asked: remove the destination's registration."""
    REGISTER = "register"
    """Destination: register the guest's key on its nexus."""
    PREEMPT = "preempt"
    """Destination: move the reservation."""
    RECOLLECT = "recollect"
    """Destination, after a restart of both hosts: check that the LUN has what a commit leaves. Changes
    nothing.
    """
    ASCERTAIN = "ascertain"
    """Roll back, destination: read what the guest has, which may have run here; the gate is shut."""
    PROBE = "probe"
    """Roll back, destination: check whether its nexus has the guest's key; the gate is shut."""
    RETURN = "return"
    """Roll back, destination: unregister, or prepare its registration for the source's PREEMPT."""
    VERIFY = "verify"
    """Destination, when the guest runs there: check that everything is as it should be, for third nexuses
    too.
    """
    CLAIM = "claim"
    """Destination, when the source is dead: check whether everything can be moved without the source."""
    ASSURE = "assure"
    """Destination, when the source is dead: check that everything is here, before the handover is "taken"."""
    TAKE = "take"
    """Destination, when the source is dead: move everything without the source."""
    REASSURE = "reassure"
    """Destination, when it has taken everything, after a restart or if it is asked to take once more: check
    that the source has not removed this host's registration. Changes nothing.
    """
    WITHDRAW = "withdraw"
    """Destination, when the source has rolled back without the destination: remove what may be left."""


class WorkPolicy(msgspec.Struct, frozen=True, gc=False):
    """How one kind of work is done on the LUNs.

    Attributes:
        changes: Whether it may change registrations or the reservation. Then it must go on record before it
            begins.
        finds_out: Whether it only finds out what the guest has, which the guest's device tracks from then on.
        drains: Whether it begins only when the guest's commands in flight have ended.
        live: Whether it begins with what the guest's device tracks at that moment, and not with what was
            noted earlier, because the guest runs or has run since (`as_the_device_knows`).
        late: Whether it may begin long after the last look at the LUN. No commit waits for it.
        keeps_attentions: Whether it adds to the LUN the unit attentions that the guest, which has stopped
            here, has not got yet.
        is_short: Whether it needs one command on each LUN, unless something has gone wrong. Then the first
            commands are sent to all LUNs together.
    """

    changes: bool = True
    finds_out: bool = False
    drains: bool = False
    live: bool = False
    late: bool = False
    keeps_attentions: bool = False
    is_short: bool = False


_FINDS_OUT = WorkPolicy(changes=False, finds_out=True, live=True)

POLICY: Mapping[Work, WorkPolicy] = {
    Work.CHECK: _FINDS_OUT,
    Work.CONFIRM: replace(_FINDS_OUT, keeps_attentions=True),
    Work.DRAIN: WorkPolicy(changes=False, drains=True, keeps_attentions=True),
    Work.GIVE: WorkPolicy(keeps_attentions=True, is_short=True),
    Work.COLLECT: WorkPolicy(keeps_attentions=True),
    Work.SETTLE: WorkPolicy(),
    Work.YIELD: WorkPolicy(),
    Work.WONDER: WorkPolicy(changes=False),
    Work.DISCARD: WorkPolicy(live=True, late=True),
    Work.RECOUNT: WorkPolicy(changes=False, live=True),
    Work.ASK: WorkPolicy(late=True),
    Work.RECLAIM: WorkPolicy(late=True),
    Work.TAKE_BACK: WorkPolicy(late=True),
    Work.WEIGH: WorkPolicy(drains=True, live=True),
    Work.ASSESS: WorkPolicy(drains=True, live=True),
    Work.ISOLATE: WorkPolicy(drains=True, live=True, late=True),
    Work.EVICT: WorkPolicy(late=True),
    Work.REGISTER: WorkPolicy(),
    Work.PREEMPT: WorkPolicy(is_short=True),
    Work.RECOLLECT: WorkPolicy(changes=False, late=True),
    Work.ASCERTAIN: replace(_FINDS_OUT, drains=True, keeps_attentions=True),
    Work.PROBE: WorkPolicy(drains=True, late=True),
    Work.RETURN: WorkPolicy(late=True),
    Work.VERIFY: WorkPolicy(live=True, late=True),
    Work.CLAIM: WorkPolicy(late=True),
    Work.ASSURE: WorkPolicy(live=True, late=True),
    Work.TAKE: WorkPolicy(late=True),
    Work.REASSURE: WorkPolicy(changes=False, live=True),
    Work.WITHDRAW: WorkPolicy(drains=True, live=True),
}


def as_the_device_knows(
    work: Work, lun: LunHandover, tracked: Tracked, candidates: tuple[int, ...]
) -> LunHandover:
    """The LUN with which ``work`` must begin, at the moment when the device queue runs the work.

    Args:
        work: The kind of work.
        lun: The LUN as it was noted earlier.
        tracked: What the guest has, as its device on this host tracks it.
        candidates: Keys that the guest may have instead, if the result of one of its commands is not known.
    """
    if not POLICY[work].live:
        return lun
    if work in (Work.ASCERTAIN, Work.WITHDRAW):
        # The guest may have registered a key on this nexus that the source does not know.
        keys = (*lun.standing, tracked.key, *candidates)
        lun = replace(lun, standing=tuple(key for key in dict.fromkeys(keys) if key))
    if work is Work.WITHDRAW:
        return lun
    # If the guest has asked for another APTPL, the LUN has that value now (SPC-4 5.13.5).
    aptpl = lun.aptpl if tracked.aptpl == lun.tracked.aptpl else tracked.aptpl
    return replace(lun, tracked=tracked, aptpl=aptpl)


def steps_of(
    work: Work, lun: LunHandover, *, stale: bool = False, candidates: tuple[int, ...] = ()
) -> Steps[LunHandover]:
    """The steps of ``work`` on one LUN.

    Args:
        work: The kind of work.
        lun: The LUN as it is known.
        stale: Whether ``lun.tracked`` may be wrong. Only work with `WorkPolicy.finds_out` uses this.
        candidates: Keys that the guest may have instead, if the result of one of its commands is not known.
            Work that finds out what the guest has, or whether it is registered, uses them here;
            `as_the_device_knows` gives them to others.

    Returns:
        The LUN as it is known afterwards.

    Raises:
        StepFailed: The work cannot be done; the message says what is true now.
    """
    if not lun.migrate_pr or work is Work.DRAIN:
        return _nothing(lun)
    if work is Work.CHECK:
        return confirm(lun, stale, registered_there=False, candidates=candidates)
    if work is Work.CONFIRM:
        return confirm(lun, stale, registered_there=True, candidates=candidates)
    if work is Work.ASCERTAIN:
        return ascertain(lun, stale)
    if work in _WITH_CANDIDATES:
        return _with_aptpl_of_now(partial(_WITH_CANDIDATES[work], candidates=candidates), lun)
    if POLICY[work].late:
        return _with_aptpl_of_now(_STEPS[work], lun)
    return _STEPS[work](lun)


def _with_aptpl_of_now(
    steps: Callable[[LunHandover], Steps[LunHandover]], lun: LunHandover
) -> Steps[LunHandover]:
    """The same steps, changed so that no REGISTER among them turns off an APTPL that another node has turned
    on.
    """
    if (lun.tracked.key or lun.standing) and not lun.as_registered.aptpl:
        lun = replace(lun, aptpl=(yield from active_aptpl(otherwise=False)))
    return (yield from steps(lun))


def without_commands(work: Work, lun: LunHandover) -> LunHandover | None:
    """The LUN as it is known after ``work``, if the work needs no command to the LUN; else None."""
    if lun.migrate_pr and POLICY[work].live:
        return None
    try:
        run = StepRun(steps_of(work, lun))
    except StepFailed:
        return None
    return run.result if run.request is None else None


def _nothing(lun: LunHandover) -> Steps[LunHandover]:
    yield from ()
    return lun


_WITH_CANDIDATES: dict[Work, Callable[..., Steps[LunHandover]]] = {
    Work.WONDER: wonder,
    Work.RECOUNT: recount,
    Work.ASK: ask_whether_lost,
    Work.REASSURE: reassure,
}
"""The work that looks for ``candidates`` too. It may begin long after the last look at the LUN."""

_STEPS: dict[Work, Callable[[LunHandover], Steps[LunHandover]]] = {
    Work.GIVE: give,
    Work.COLLECT: collect,
    Work.SETTLE: clear_attentions,
    Work.YIELD: yield_up,
    Work.DISCARD: discard,
    Work.RECLAIM: reclaim,
    Work.TAKE_BACK: take_back,
    Work.WEIGH: weigh,
    Work.ASSESS: assess,
    Work.ISOLATE: isolate,
    Work.EVICT: evict,
    Work.REGISTER: register,
    Work.PREEMPT: preempt_from_source,
    Work.RECOLLECT: recollect,
    Work.PROBE: probe,
    Work.RETURN: give_back,
    Work.VERIFY: verify,
    Work.CLAIM: claim,
    Work.ASSURE: assure,
    Work.TAKE: take,
    Work.WITHDRAW: withdraw,
}
