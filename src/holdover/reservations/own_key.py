"""Which key is ours: finds out the key of this host's nexus, without changing a registration.

READ KEYS reports keys, but not the nexuses that have them. Two commands tell a nexus its own key and change
no registration (SPC-4 5.13.7, table 67):

- REGISTER with one key as both keys ends in GOOD exactly if this nexus is registered with that key;
- REGISTER with 0 as both keys ends in GOOD exactly if this nexus is not registered.

The first one also sets APTPL for the whole logical unit, so it must carry the value that is already active.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from msgspec import structs

from holdover.reservations.questions import read_keys
from holdover.reservations.steps import StepFailed, Steps, insist
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status

PROBE = "REGISTER (probe)"
"""The step that asks a nexus for its own key."""


@dataclass(frozen=True, slots=True)
class Own:
    """The registration of this host.

    Attributes:
        key: The key; 0 if this host is not registered.
        carried: The initiator port of each path on which the key is proven (`Response.carried`); empty if the
            host's device is one I_T nexus.
        was_there: After a change of the key: whether the old key was still there. False if it had been
            changed before, or if another node had removed it.
    """

    key: int
    carried: tuple[str, ...] = ()
    was_there: bool = field(default=False, compare=False)


def find_key(
    tracked: Tracked, candidates: tuple[int, ...], seldom: tuple[int, ...] = ()
) -> Steps[Own | None]:
    """This host's registration, if its key is one of ``candidates`` (0 is left out); key 0 if it is not
    registered.

    None: the host is registered with another key.

    Args:
        tracked: Has the APTPL that the LUN must have.
        candidates: The keys to try first.
        seldom: The keys to try if the host is registered, but with none of ``candidates``.
    """
    own = yield from which_key(tracked, candidates)
    if own.key:
        return own
    nothing = yield from probe(0, 0)
    if nothing.good:
        return Own(0, nothing.carried)
    own = yield from which_key(tracked, seldom)
    if own.key:
        return own
    own = yield from made_one(tracked, (*candidates, *seldom))
    return own if own.key else None


def own_key(tracked: Tracked, candidates: tuple[int, ...], seldom: tuple[int, ...] = ()) -> Steps[Own]:
    """As `find_key`, for a host that must have one of these keys or none.

    Raises:
        StepFailed: The host is registered with another key, or the LUN refuses.
    """
    own = yield from find_key(tracked, candidates, seldom)
    if own is not None:
        return own
    raise StepFailed(
        PROBE,
        "this host's nexus is registered with a key that is not the guest's: another guest's, or one that "
        "was not registered through Holdover; nothing was changed by this step",
    )


def which_key(tracked: Tracked, candidates: tuple[int, ...]) -> Steps[Own]:
    """This host's registration, if its key is one of ``candidates`` (0 is left out). Otherwise key 0: the
    host is not registered, or it has a key that does not concern the caller.
    """
    for key in dict.fromkeys(candidates):
        if key != 0:
            found = yield from probe(key, key, tracked.aptpl)
            if found.good:
                return Own(key, found.carried)
    return Own(0)


def made_one(tracked: Tracked, candidates: tuple[int, ...]) -> Steps[Own]:
    """This host's registration, after all of its paths were given the same one of ``candidates``: the last
    one that some path had.

    A host with several paths that fails amid a change of its key has the old one on some and the new one on
    others. Both keys are the host's own, so this completes the change. Key 0: no path has one of
    ``candidates``. A key that is not on the LUN is none that a path had: no path may get it.
    """
    keys = tuple(key for key in dict.fromkeys(candidates) if key != 0)
    present = yield from read_keys()
    for new_key in reversed(keys):
        for key in keys if new_key in present else ():
            if key != new_key:
                found = yield from probe(key, new_key, tracked.aptpl, "REGISTER (re-key)")
                if found.good:
                    return Own(new_key, found.carried)
    return Own(0)


def register_command(key: int, new_key: int, aptpl: bool = False) -> Command:
    """REGISTER for the paths of this host that can be reached. The handover accounts for the other paths."""
    command = out_command(OutServiceAction.REGISTER, key, new_key, aptpl=aptpl)
    return structs.replace(command, leave_absent=True)


def probe(key: int, new_key: int, aptpl: bool = False, step: str = PROBE) -> Steps[Response]:
    """Send REGISTER ``key`` -> ``new_key`` until the answer is GOOD or RESERVATION CONFLICT. The command may
    run twice.
    """
    response = yield from insist(register_command(key, new_key, aptpl), step)
    if response.good or response.status is Status.RESERVATION_CONFLICT:
        return response
    raise StepFailed(step, f"the LUN answers {describe_response(response)}")
