"""What this host's nexus has on a LUN: found out without changing what any nexus has.

Theory of operation. READ KEYS and READ RESERVATION name keys, not nexuses, and several nexuses may have one
key. Two commands tell a nexus its own key and change nothing (SPC-4 5.13.7, table 67):

- REGISTER with a key as both keys is GOOD exactly where this nexus is registered with that key;
- REGISTER with 0 as both keys is GOOD exactly where it is not registered.

The first one sets APTPL, which is the whole LUN's, so it carries the value that is active (PTPL_A of REPORT
CAPABILITIES); and it adds one to PRGENERATION, as any registration does. What was read before and after it
belongs together when PRGENERATION has moved by no more than that (behind multipath, one for each path).

READ FULL STATUS names nexuses by their TransportIDs. Where the TransportID of this nexus is known, that
command alone is enough; where it is not, it is learned from the descriptor beside a key that is proven to be
this nexus's and stands nowhere else.

`decide` says what becomes of a registration that was found, by the guest's `adopt` setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdover.guest.question import Picture, QuestionError, ask
from holdover.guest.snoop import Tracked
from holdover.handover.steps import (
    ATTEMPTS,
    LostAnswer,
    StepFailed,
    Steps,
    active_aptpl,
    is_lacking,
    tell,
)
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.reservation_in import FullStatus, FullStatusDescriptor, Reservation
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status

__all__ = ["Decision", "Difference", "Found", "compare", "decide", "find_own_registration"]

_ROUNDS = 4
_MOST_KEYS = 64  # of clusters with more nodes the journal knows the key, or the operator
_MAX_LENGTH = 65535
_WRAP = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Found:
    """What this host's nexus has on a LUN.

    Attributes:
        tracked: Its key, its reservation, and the APTPL that is active on the LUN. Where it is not certain:
            as much of that as is proven.
        certain: Whether that is all and is proven.
        reason: Why it is not certain; empty where it is.
        nexus: This nexus as READ FULL STATUS names it, or None where that was not learned.
    """

    tracked: Tracked
    certain: bool
    reason: str = ""
    nexus: ITNexus | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """How what a LUN says differs from what is tracked.

    Attributes:
        tracked: What is tracked.
        found: What the LUN says of the guest; None where it does not tell whose its reservation is.
        reason: The difference in words; empty where there is none to be seen.
    """

    tracked: Tracked
    found: Tracked | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of what was found.

    Attributes:
        tracked: To be tracked from now on; None: leave what is tracked as it is.
        report: What the operator is to be told, and what to do about it; empty: nothing.
    """

    tracked: Tracked | None
    report: str = ""


def find_own_registration(
    candidates: Sequence[int] = (),
    *,
    aptpl: bool = False,
    nexus: ITNexus | None = None,
    nexuses: int = 1,
) -> Steps[Found]:
    """Which key this host's nexus has on the LUN, and whether it is the reservation holder.

    Args:
        candidates: Keys that it may have, the likeliest first; those that others have are tried after them.
        aptpl: The APTPL to probe with where the LUN does not say which is active.
        nexus: This nexus as READ FULL STATUS names it, as an earlier `Found` told.
        nexuses: How many I_T nexuses one registration of this host makes; multipath makes several.

    Raises:
        StepFailed: The LUN refuses to say.
    """
    if nexus is not None:
        status = yield from _read_full_status()
        own = None if status is None else _descriptor_of(status, nexus)
        if own is not None:
            active = yield from active_aptpl(aptpl)
            return Found(Tracked(own.key, active, own.type, own.scope), certain=True, nexus=nexus)
    for _ in range(_ROUNDS):
        before = yield from _read()
        # last of all before it is used: another node may set it at any time
        active = yield from active_aptpl(aptpl)
        key = yield from _own_key(candidates, before.keys, active)
        if key is None:
            reason = "this host's nexus is registered with a key that READ KEYS does not show"
            return Found(Tracked(), certain=False, reason=reason)
        if key == 0:
            return Found(Tracked(), certain=True)
        after = yield from _read()
        if (after.generation - before.generation) & _WRAP <= nexuses:
            return (yield from _judge(Tracked(key, active), after, nexuses))
        candidates = (key, *candidates)
    return Found(Tracked(), certain=False, reason="other nodes register faster than this host can ask")


def compare(tracked: Tracked, *, nexus: ITNexus | None = None, nexuses: int = 1) -> Steps[Difference]:
    """Compare what is tracked with what the LUN says, by reading alone.

    Args:
        tracked: What the guest has established, as far as was seen.
        nexus: This nexus as READ FULL STATUS names it. Without it a third nexus with the guest's key is
            taken for the guest, which `find_own_registration` does not do.
        nexuses: As there.

    Raises:
        StepFailed: The LUN refuses to say.
    """
    aptpl = yield from active_aptpl(tracked.aptpl)
    status = None if nexus is None else (yield from _read_full_status())
    if nexus is not None and status is not None:
        own = _descriptor_of(status, nexus)
        found = Tracked() if own is None else Tracked(own.key, aptpl, own.type, own.scope)
        return Difference(tracked, found, _in_words(tracked, found))
    picture = yield from _read()
    if tracked.key not in picture.keys:
        return Difference(tracked, Tracked(), _in_words(tracked, Tracked()))
    registered = replace(tracked, aptpl=aptpl, type=None, scope=0)
    held = picture.reservation
    if held is None or not _names(held, tracked.key):
        return Difference(tracked, registered, _in_words(tracked, registered))
    holder = replace(registered, type=held.type, scope=held.scope)
    count = picture.keys.count(tracked.key)
    if held.type.all_registrants or count <= nexuses or _same(tracked, holder):
        return Difference(tracked, holder, _in_words(tracked, holder))
    return Difference(tracked, None, _whose(held, count))


def decide(
    adopt: bool | None, tracked: Tracked, candidates: Sequence[int], found: Found, *, sole: bool
) -> Decision:
    """What becomes of what was found on the guest's nexus.

    Args:
        adopt: The guest's setting: True: a registration that the guest did not make through this agent is
            adopted; False: it is reported; None: adopted where there is one explanation for it.
        tracked: What was tracked.
        candidates: Keys that the guest may have set, besides that of `tracked`.
        found: What was found.
        sole: Whether the nexus is the guest's own, so that nobody else of this host can have registered it.
    """
    if not found.certain:
        return Decision(None, f"{found.reason}; have the guest register again")
    key = found.tracked.key
    if key in (0, tracked.key) or key in candidates:
        return Decision(found.tracked)
    if adopt or (adopt is None and sole):
        return Decision(found.tracked)
    return Decision(
        None,
        f"this host's nexus is registered with key {key:#x}, which the guest did not register through this "
        "agent; set adopt = true for the guest to take it for the guest's, or unregister it",
    )


def _own_key(candidates: Sequence[int], keys: Sequence[int], aptpl: bool) -> Steps[int | None]:
    """The key of this nexus, 0: none, None: it is not to be found."""
    likely = [key for key in dict.fromkeys(candidates) if key in keys]
    rest = [key for key in dict.fromkeys(keys) if key not in likely][:_MOST_KEYS]
    for key in (*likely, 0, *rest):
        if (yield from _is_own(key, aptpl)):
            return key
    return None


def _judge(registered: Tracked, picture: Picture, nexuses: int) -> Steps[Found]:
    """What a nexus has whose key is proven."""
    held, count = picture.reservation, picture.keys.count(registered.key)
    nexus = (yield from _learn_nexus(registered.key, picture)) if count == 1 else None
    if held is None or not _names(held, registered.key):
        return Found(registered, certain=True, nexus=nexus)
    if held.type.all_registrants or count <= nexuses:
        return Found(replace(registered, type=held.type, scope=held.scope), certain=True, nexus=nexus)
    return Found(registered, certain=False, reason=_whose(held, count))


def _learn_nexus(key: int, picture: Picture) -> Steps[ITNexus | None]:
    status = yield from _read_full_status()
    if status is None or status.generation != picture.generation:
        return None
    beside = [each for each in status.descriptors if each.key == key]
    # a descriptor for all target ports does not say which one is ours
    if len(beside) != 1 or beside[0].all_target_ports:
        return None
    return ITNexus(beside[0].transport_id, beside[0].relative_target_port)


def _descriptor_of(status: FullStatus, nexus: ITNexus) -> FullStatusDescriptor | None:
    for each in status.descriptors:
        if each.transport_id == nexus.initiator and (
            each.all_target_ports or each.relative_target_port == nexus.target_port
        ):
            return each
    return None


def _names(held: Reservation, key: int) -> bool:
    return held.type.all_registrants or held.key == key


def _same(tracked: Tracked, found: Tracked) -> bool:
    """Whether two say the same; what all registrants hold is nothing that the guest must have taken."""
    if tracked.type is None and found.type is not None and found.type.all_registrants:
        found = replace(found, type=None, scope=0)
    return tracked == found


def _whose(held: Reservation, count: int) -> str:
    return (
        f"the reservation of type {held.type.short_name} is held with key {held.key:#x}, which stands on "
        f"{count} nexuses: whose it is cannot be told"
    )


def _in_words(tracked: Tracked, found: Tracked) -> str:
    if _same(tracked, found):
        return ""
    if tracked.key != found.key:
        was = f"key {tracked.key:#x}" if tracked.key else "nothing"
        now = f"key {found.key:#x}" if found.key else "nothing"
        return f"the guest was seen to register {was}, the LUN has {now} for this host's nexus"
    if (tracked.type, tracked.scope) != (found.type, found.scope) and not (
        tracked.type is None and found.type is not None and found.type.all_registrants
    ):
        was = "nothing" if tracked.type is None else tracked.type.short_name
        now = "nothing" if found.type is None else found.type.short_name
        return f"the guest was seen to hold {was}, by the LUN it holds {now}"
    return f"the guest registered with APTPL {tracked.aptpl:d}, on the LUN it is {found.aptpl:d}"


def _read_full_status() -> Steps[FullStatus | None]:
    """READ FULL STATUS; None where the LUN lacks it or has more to say than fits."""
    step = "READ FULL STATUS"
    response = yield from _send(in_command(InServiceAction.READ_FULL_STATUS, _MAX_LENGTH), step)
    if is_lacking(response):
        return None
    if not response.good:
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    try:
        status = FullStatus.decode(response.data_in)
    except DecodeError as error:
        raise StepFailed(step, str(error)) from error
    return status if status.complete else None


def _read() -> Steps[Picture]:
    """READ KEYS and READ RESERVATION at one PRGENERATION."""
    step = "READ KEYS and READ RESERVATION"
    for _ in range(ATTEMPTS):
        try:
            return (yield from ask(lambda _: None))
        except LostAnswer:
            continue
        except QuestionError as error:
            raise StepFailed(step, str(error)) from error
    raise StepFailed(step, "the LUN's answers are lost again and again")


def _is_own(key: int, aptpl: bool) -> Steps[bool]:
    """REGISTER with ``key`` as both keys."""
    step = "REGISTER (probe)"
    response = yield from _send(out_command(OutServiceAction.REGISTER, key, key, aptpl=aptpl), step)
    if not response.good and response.status is not Status.RESERVATION_CONFLICT:
        raise StepFailed(step, f"the LUN answers {describe_response(response)}")
    return response.good


def _send(command: Command, step: str) -> Steps[Response]:
    """Send a command that may run twice until it is answered."""
    for _ in range(ATTEMPTS):
        response = yield from tell(command, step)
        if response is not None:
            return response
    raise StepFailed(step, "the LUN's answers are lost again and again")
