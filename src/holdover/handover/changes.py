"""Commands of a handover that change registrations or the reservation, repeated until the result is known.

If the answer to a command was lost, the command may have been carried out, or not. Then the function asks the
logical unit, or it repeats the command if the second answer shows what is true.
"""

from __future__ import annotations

from holdover.reservations.own_key import Own, register_command
from holdover.reservations.questions import read_keys
from holdover.reservations.steps import ATTEMPTS, StepFailed, Steps, tell
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status


def register_key(tracked: Tracked, key: int) -> Steps[Own]:
    """Register ``key`` on this nexus, which is not registered. If the nexus has ``key`` already, this
    succeeds.

    Raises:
        StepFailed: The nexus is registered with another key, or the LUN refuses.
    """
    step = "REGISTER"
    fresh = register_command(0, key, tracked.aptpl)
    again = register_command(key, key, tracked.aptpl)
    for _ in range(ATTEMPTS):
        for command in (fresh, again):
            response = yield from tell(command, step)
            if response is None:
                break
            if response.good:
                return Own(key, response.carried)
            if response.status is not Status.RESERVATION_CONFLICT:
                raise StepFailed(step, f"the LUN answers {describe_response(response)}")
        else:
            raise StepFailed(
                step,
                "this host's nexus is registered on the LUN with another key, perhaps another guest's; "
                "nothing was changed",
            )
    raise StepFailed(
        step, "no answer came to repeated commands; it is not known whether this host's nexus is registered"
    )


def change_key(tracked: Tracked, key: int, new_key: int, step: str) -> Steps[Own]:
    """Send REGISTER ``key`` -> ``new_key`` (0: unregister) on this nexus. If this was done before, this
    succeeds.
    """
    change = register_command(key, new_key, tracked.aptpl)
    # With both keys 0, GOOD means that the nexus is not registered, as wanted.
    done = register_command(new_key, new_key, tracked.aptpl)
    lost = False
    for _ in range(ATTEMPTS):
        response = yield from tell(change, step)
        if response is None:
            lost = True
            continue
        if response.good:
            return Own(new_key, response.carried, was_there=True)
        if response.status is Status.RESERVATION_CONFLICT:
            repeated = yield from tell(done, step)
            if repeated is None:
                continue
            if repeated.good:
                return Own(new_key, repeated.carried, was_there=lost)
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(
        step, "no answer came to repeated commands; it is not known whether the registration has changed"
    )


def preempt(tracked: Tracked, key: int, preempted: int) -> Steps[str]:
    """Send PREEMPT of ``preempted`` until an answer comes. Returns that answer if it is not GOOD, else
    None.
    """
    kind = tracked.type or ReservationType.WRITE_EXCLUSIVE  # ignored if no reservation moves
    command = out_command(OutServiceAction.PREEMPT, key, preempted, type=kind, scope=tracked.scope)
    for _ in range(ATTEMPTS):
        response = yield from tell(command, "PREEMPT")
        if response is None:
            # The PREEMPT may have been carried out. Then a repetition may remove what the first one left.
            if not (yield from _is_there(preempted, key)):
                return "; its answer was lost"
            continue
        return "" if response.good else f"; the LUN answered {describe_response(response)}"
    raise StepFailed(
        "PREEMPT", "no answer came to repeated commands; it is not known whether the LUN carried them out"
    )


def _is_there(preempted: int, key: int) -> Steps[bool]:
    """Whether registrations with ``preempted`` remain for a nexus with ``key`` to preempt.

    A host with several nexuses never preempts its own key (`must_rekey`).
    """
    return (yield from read_keys()).count(preempted) > (preempted == key)


def change_back(tracked: Tracked, spare: int) -> Steps[Own]:
    """Send REGISTER ``spare`` -> the guest's key on this host, so that no nexus keeps the spare key.

    A path that has failed since the host registered its spare key keeps the spare key, and may hold the
    reservation with it. A PREEMPT of the spare key removes that registration. It affects no other node,
    because no other node has that key.
    """
    own = yield from change_key(tracked, spare, tracked.key, "REGISTER (re-key)")
    if own.carried and spare in (yield from read_keys()):
        yield from preempt(tracked, tracked.key, spare)
    return own
