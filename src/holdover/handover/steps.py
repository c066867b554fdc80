"""The steps of a handover, each for one LUN, as seen from one host.

Theory of operation. A handover has a *giver* (the host that the guest leaves) and a *taker* (the
host that it goes to). While the guest stands still:

1. giver: `confirm`: what was snooped is compared with what the LUN says.
2. taker: `register` puts the guest's key on the taker's nexus.
3. giver: `give` does what has to be done from its own nexus, by this table:

   ==========================================  ==========================================
   the guest is                                the giver
   ==========================================  ==========================================
   reservation holder, key on no third nexus   does nothing; its key is what is preempted
   reservation holder, key on a third nexus    changes its key to a random one: the prey
   registrant, or holder among all registrants unregisters; nothing is preempted
   not registered                              does nothing
   ==========================================  ==========================================

4. taker: `preempt` sends PREEMPT for the giver's key, which moves the reservation in one command, so
   that it is held at every instant, and removes the giver's registration (SPC-4 5.13.11.2); then
   it asks the LUN whether all is as it should be.
5. giver: `settle` clears the unit attentions that the move has left on its nexus.

Rolling back runs the other way: `take_back_registration` on the giver tells whether the
registration was lost, which is so exactly if the PREEMPT was carried out, since re-keying and
preparing leave it in place. If it was lost the reservation is with the taker, which then gives it
back by steps 3 and 4 with the roles changed; else the taker's registration was only prepared, and
`withdraw` removes it.

Rules for whoever edits this file: every step may run twice, and an answer that never came
(`AnswerLost` of the runner is thrown in as `LostAnswer`) is neither failure nor success: the step
asks the LUN or repeats a command whose repetition shows what is true. No step may unregister a
nexus that holds a reservation of a type other than all registrants: that would free it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TypeVar

from holdover.guest.scsi_block import Tracked
from holdover.scsi.cdb import Inquiry, TestUnitReady
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator, DeviceIdentification, best_designator
from holdover.scsi.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.reservation_in import ReadKeys, ReadReservation, Reservation
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.sense import (
    AdditionalSense,
    Sense,
    SenseKey,
    decode_sense,
    describe_response,
    is_unit_attention,
)
from holdover.scsi.status import Status

__all__ = [
    "ATTEMPTS",
    "LostAnswer",
    "Registered",
    "StepFailed",
    "Steps",
    "ask",
    "change_key",
    "confirm",
    "give",
    "identify",
    "is_in_doubt",
    "is_not_now",
    "own_key",
    "preempt",
    "read_keys",
    "read_reservation",
    "register",
    "register_key",
    "settle",
    "take_back_registration",
    "tell",
    "withdraw",
]

T = TypeVar("T")
Steps = Generator[Command, Response, T]

ATTEMPTS = 12
"""How often one command is sent in all: unit attentions come one at a time, answers get lost."""

_MAX_LENGTH = 65535
_DEVICE_IDENTIFICATION = 0x83


class LostAnswer(Exception):
    """Thrown into a step by its runner: the command was sent and its answer never came."""


class StepFailed(Exception):
    """A step could not be done.

    Attributes:
        step: The step's name ("REGISTER").
        problem: What happened and what is true now.
    """

    def __init__(self, step: str, problem: str) -> None:
        super().__init__(f"{step}: {problem}")
        self.step = step
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Registered:
    """What `register` and `take_back_registration` found.

    Attributes:
        was_registered: The nexus had the key before.
        shared: The key stands on a third nexus as well as on giver and taker.
    """

    was_registered: bool
    shared: bool


_WAIT = frozenset({Status.BUSY, Status.TASK_SET_FULL})
_TRANSITIONS = frozenset(
    {
        AdditionalSense.LOGICAL_UNIT_IS_IN_PROCESS_OF_BECOMING_READY,
        AdditionalSense.LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION,
    }
)


def is_not_now(response: Response) -> bool:
    """Whether the LUN has not carried a command out, and will when it is sent again a little later.

    BUSY and TASK SET FULL (SAM-5 5.3.1), and NOT READY while it becomes ready or its controllers change over.
    """
    sense = _sense_of(response)
    if sense is None:
        return response.status in _WAIT
    return sense.key is SenseKey.NOT_READY and sense.additional in _TRANSITIONS


def is_in_doubt(response: Response) -> bool:
    """Whether a command may have been carried out although it was not answered GOOD: ABORTED COMMAND, as of a
    reset or a controller that gave it up, TASK ABORTED, and errors of the hardware."""
    if response.status is Status.TASK_ABORTED:
        return True
    sense = _sense_of(response)
    return sense is not None and sense.key in (SenseKey.ABORTED_COMMAND, SenseKey.HARDWARE_ERROR)


def _sense_of(response: Response) -> Sense | None:
    if response.status is not Status.CHECK_CONDITION:
        return None
    try:
        return decode_sense(response.sense)
    except DecodeError:
        return None


def tell(command: Command, step: str) -> Steps[Response | None]:
    """Send ``command`` past unit attentions; None when its answer was lost."""
    for _ in range(ATTEMPTS):
        try:
            response = yield command
        except LostAnswer:
            return None
        if not is_unit_attention(response):
            return response
    raise StepFailed(step, "the LUN answers with one unit attention after the other")


def ask(command: Command, step: str) -> Steps[Response]:
    """Send a command that changes nothing until it is answered GOOD."""
    for _ in range(ATTEMPTS):
        response = yield from tell(command, step)
        if response is None:
            continue
        if response.good:
            return response
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(step, "the LUN's answers are lost again and again")


def read_keys() -> Steps[tuple[int, ...]]:
    """The keys of all registered nexuses (SPC-4 6.15.2)."""
    step = "READ KEYS"
    response = yield from ask(in_command(InServiceAction.READ_KEYS, _MAX_LENGTH), step)
    try:
        found = ReadKeys.decode(response.data_in)
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error
    if not found.complete:
        raise StepFailed(step, "the list of keys is cut short, so who is registered is not known")
    return found.keys


def read_reservation() -> Steps[Reservation | None]:
    """The reservation, or None (SPC-4 6.15.3)."""
    step = "READ RESERVATION"
    response = yield from ask(in_command(InServiceAction.READ_RESERVATION, _MAX_LENGTH), step)
    try:
        return ReadReservation.decode(response.data_in).reservation
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error


def settle() -> Steps[None]:
    """Clear the unit attentions pending for this nexus; what else TEST UNIT READY says is no matter."""
    for _ in range(ATTEMPTS):
        try:
            response = yield Command(TestUnitReady().encode())
        except LostAnswer:
            continue
        if not is_unit_attention(response):
            return
    raise StepFailed("TEST UNIT READY", "the LUN answers with one unit attention after the other")


def identify() -> Steps[Designator]:
    """The designator by which any host knows this LUN (VPD page 83h, SPC-4 7.8.6)."""
    step = "INQUIRY VPD page 83h"
    cdb = Inquiry(_MAX_LENGTH, _DEVICE_IDENTIFICATION).encode()
    response = yield from ask(Command(cdb, data_in_length=_MAX_LENGTH), step)
    try:
        page = DeviceIdentification.decode(response.data_in)
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error
    designator = best_designator(page.designators)
    if designator is None:
        raise StepFailed(step, "the LUN names itself by no NAA, EUI-64 or T10 designator")
    return designator


def confirm(tracked: Tracked, *, stale: bool = False) -> Steps[Tracked]:
    """What the guest holds now, asked of the LUN: others may have changed it unseen.

    ``stale``: ``tracked`` may be wrong, and is no witness to whose a reservation is.

    Whether the registration on this nexus is the guest's shows by repeating it: REGISTER with the key
    as both keys changes nothing where it stands and conflicts where it does not (SPC-4 5.13.7).

    Raises:
        StepFailed: The LUN's state and ``tracked`` do not fit in a way that has one explanation.
    """
    if not (yield from _is_registered(tracked)):
        return Tracked()
    keys = yield from read_keys()
    held = yield from read_reservation()
    if held is None or (not held.type.all_registrants and held.key != tracked.key):
        return replace(tracked, type=None, scope=0)
    if held.type.all_registrants:
        return replace(tracked, type=held.type, scope=held.scope)
    count = keys.count(tracked.key)
    if count == 1 or (not stale and tracked.type is held.type and tracked.scope == held.scope):
        return replace(tracked, type=held.type, scope=held.scope)
    if tracked.type is None and not stale:
        return tracked
    seen = "nothing" if tracked.type is None else f"type {tracked.type.short_name}"
    raise StepFailed(
        "READ RESERVATION",
        f"the guest was seen to hold {seen}{' some time ago' if stale else ''}, "
        f"the LUN says {held.type.short_name} "
        f"for key {held.key:#x}, which stands on {count} nexuses: whose it is cannot be told",
    )


def _is_registered(tracked: Tracked) -> Steps[bool]:
    """Whether ``tracked.key`` (0: nothing) is what this nexus is registered with; else it has nothing."""
    step = "REGISTER (probe)"
    if tracked.key != 0:
        same = out_command(OutServiceAction.REGISTER, tracked.key, tracked.key, aptpl=tracked.aptpl)
        response = yield from _probe(same, step)
        if response.good:
            return True
    nothing = yield from _probe(out_command(OutServiceAction.REGISTER, 0, 0), step)
    if nothing.good:
        return False
    was = f"key {tracked.key:#x}" if tracked.key else "no registration"
    raise StepFailed(
        step,
        f"this host's nexus is registered with a key that the guest did not set here, where {was} was "
        "seen last; have the guest register again, then repeat",
    )


def _probe(command: Command, step: str) -> Steps[Response]:
    """Send a REGISTER that may run twice until it is answered GOOD or RESERVATION CONFLICT."""
    for _ in range(ATTEMPTS):
        response = yield from tell(command, step)
        if response is None:
            continue
        if response.good or response.status is Status.RESERVATION_CONFLICT:
            return response
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(step, "the LUN's answers are lost again and again")


def own_key(tracked: Tracked, candidates: tuple[int, ...]) -> Steps[int]:
    """Which of ``candidates`` (0 is left out) this nexus is registered with; 0 when it is not registered.

    REGISTER with a key as both keys changes nothing where it stands on this nexus and conflicts where it does
    not; with 0 as both keys it is GOOD exactly on a nexus that is not registered (SPC-4 5.13.7).

    Raises:
        StepFailed: It is registered with a key that is none of these, or the LUN refuses.
    """
    step = "REGISTER (probe)"
    for key in dict.fromkeys(candidates):
        if key != 0:
            same = out_command(OutServiceAction.REGISTER, key, key, aptpl=tracked.aptpl)
            if (yield from _probe(same, step)).good:
                return key
    nothing = yield from _probe(out_command(OutServiceAction.REGISTER, 0, 0), step)
    if nothing.good:
        return 0
    raise StepFailed(
        step,
        "this host's nexus is registered with a key that is not the guest's: another guest's, or one that "
        "was not registered through Holdover; nothing was changed by this step",
    )


def register_key(tracked: Tracked, key: int) -> Steps[None]:
    """Register ``key`` on this nexus, which is not registered; GOOD when it has ``key`` already."""
    yield from _register(replace(tracked, key=key))


def change_key(tracked: Tracked, key: int, new_key: int, step: str) -> Steps[None]:
    """REGISTER ``key`` -> ``new_key`` (0: unregister) on this nexus; done when it was done before."""
    yield from _change_key(replace(tracked, key=key, type=None), new_key, step)


def register(tracked: Tracked) -> Steps[Registered]:
    """Put the guest's key on this host's nexus, with the APTPL that the guest asked for.

    Raises:
        StepFailed: The nexus is registered with another key, or the LUN refuses.
    """
    was_registered = yield from _register(tracked)
    keys = yield from read_keys()
    return Registered(was_registered=was_registered, shared=keys.count(tracked.key) > 2)


def _register(tracked: Tracked) -> Steps[bool]:
    """Register ``tracked.key``; whether the nexus had it already."""
    step = "REGISTER"
    fresh = out_command(OutServiceAction.REGISTER, 0, tracked.key, aptpl=tracked.aptpl)
    again = out_command(OutServiceAction.REGISTER, tracked.key, tracked.key, aptpl=tracked.aptpl)
    lost = False
    for _ in range(ATTEMPTS):
        response = yield from tell(again, step)
        if response is not None and response.good:
            # after a lost answer the key may be there because we put it there a moment ago
            return not lost
        if response is not None and response.status is not Status.RESERVATION_CONFLICT:
            raise StepFailed(step, f"the LUN answers {describe_response(response)}")
        if response is None:
            continue
        response = yield from tell(fresh, step)
        if response is None:
            lost = True
            continue
        if response.good:
            return False
        if response.status is Status.RESERVATION_CONFLICT:
            raise StepFailed(
                step,
                "this host's nexus is registered on the LUN with another key, perhaps another guest's; "
                "nothing was changed",
            )
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(step, "the LUN's answers are lost again and again; whether it registered is in doubt")


def _change_key(tracked: Tracked, new_key: int, step: str) -> Steps[None]:
    """REGISTER ``tracked.key`` -> ``new_key`` on this nexus; GOOD when it was done before."""
    change = out_command(OutServiceAction.REGISTER, tracked.key, new_key, aptpl=tracked.aptpl)
    done = out_command(OutServiceAction.REGISTER, new_key, new_key, aptpl=tracked.aptpl)
    for _ in range(ATTEMPTS):
        response = yield from tell(change, step)
        if response is None:
            continue
        if response.good:
            return
        if response.status is Status.RESERVATION_CONFLICT:
            # with RK 0 and SARK 0 GOOD means: not registered, which is what 0 asks for
            repeated = yield from tell(done, step)
            if repeated is None:
                continue
            if repeated.good:
                return
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    raise StepFailed(step, "the LUN's answers are lost again and again; the registration is in doubt")


def give(tracked: Tracked, *, shared: bool, spare_key: int) -> Steps[int]:
    """What the giver does from its own nexus, by the table above.

    Args:
        tracked: What the guest holds.
        shared: The key stands on a third nexus.
        spare_key: A random key that nobody has, for the case that needs it.

    Returns:
        The key that the taker shall preempt; 0: none.
    """
    if tracked.key == 0:
        return 0
    if tracked.type is None or tracked.type.all_registrants:
        yield from _change_key(tracked, 0, "REGISTER (unregister)")
        return 0
    if shared:
        yield from _change_key(tracked, spare_key, "REGISTER (re-key)")
        return spare_key
    return tracked.key


def preempt(tracked: Tracked, prey: int) -> Steps[None]:
    """Preempt ``prey`` (0: nothing to preempt), then ask whether the nexus holds what it should.

    Raises:
        StepFailed: After all attempts the LUN does not say what the guest established.
    """
    step = "PREEMPT"
    refusal = ""
    if prey != 0 and tracked.type is not None:
        command = out_command(
            OutServiceAction.PREEMPT, tracked.key, prey, type=tracked.type, scope=tracked.scope
        )
        for _ in range(ATTEMPTS):
            response = yield from tell(command, step)
            if response is None:
                if (yield from _is_moved(tracked, prey)):
                    break
                continue
            if not response.good:
                refusal = f" after it answered {describe_response(response)}"
            break
    problem = yield from _difference(tracked, prey)
    if problem:
        raise StepFailed(step if prey else "READ RESERVATION", problem + refusal)


def _is_moved(tracked: Tracked, prey: int) -> Steps[bool]:
    return not (yield from _difference(tracked, prey))


def _difference(tracked: Tracked, prey: int) -> Steps[str]:
    """How the LUN's state differs from what the guest established; empty when it does not."""
    if tracked.key == 0:
        return ""
    keys = yield from read_keys()
    if tracked.key not in keys:
        return f"key {tracked.key:#x} is not registered"
    # our own PREEMPT leaves one registration with the key when the prey had the same
    if prey not in (0, tracked.key) and prey in keys:
        return f"the giver's key {prey:#x} is still registered"
    if prey == tracked.key and keys.count(prey) > 1:
        return f"key {prey:#x} is registered {keys.count(prey)} times"
    if tracked.type is None:
        return ""
    held = yield from read_reservation()
    if held is None:
        return f"no reservation is held, {tracked.type.short_name} is wanted"
    if held.type is not tracked.type or held.scope != tracked.scope:
        return f"the reservation is of type {held.type.short_name}, {tracked.type.short_name} is wanted"
    if not held.type.all_registrants and held.key != tracked.key:
        return f"the reservation is held with key {held.key:#x}, {tracked.key:#x} is wanted"
    return ""


def take_back_registration(tracked: Tracked, spare_key: int) -> Steps[Registered]:
    """The giver's registration is there again with the guest's key, whether it was lost or re-keyed.

    ``was_registered`` of the result is True exactly if the registration had not been lost, that is,
    if no PREEMPT was carried out.
    """
    keys = yield from read_keys()
    if spare_key in keys:
        yield from _change_key(replace(tracked, key=spare_key), tracked.key, "REGISTER (re-key)")
        keys = yield from read_keys()
        return Registered(was_registered=True, shared=keys.count(tracked.key) > 2)
    return (yield from register(tracked))


def withdraw(tracked: Tracked) -> Steps[None]:
    """Remove a registration that was only prepared.

    A conflict says that this nexus has no registration with the guest's key, which is what is wanted:
    it has none, or one of somebody else's, which stays.
    """
    if tracked.key != 0:
        unregister = out_command(OutServiceAction.REGISTER, tracked.key, 0, aptpl=tracked.aptpl)
        yield from _probe(unregister, "REGISTER (unregister)")
