"""What a guest's PERSISTENT RESERVE OUT leaves on the logical unit, as far as the command alone shows it."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from holdover.reservations.questions import Picture
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_out import ParameterList

REGISTERS = frozenset({OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY})
PREEMPTS = frozenset({OutServiceAction.PREEMPT, OutServiceAction.PREEMPT_AND_ABORT})


class HolderUnknown(Exception):
    """Whether the guest is the reservation holder cannot be told from what the logical unit says."""


def keys_at_stake(before: Tracked, cdb: PersistentReserveOut, parameters: ParameterList) -> tuple[int, ...]:
    """The keys that the guest may have while a command is under way, the likeliest first.

    That the guest has no key is always possible. The keys here do not list that as 0.
    """
    keys = [parameters.service_action_key] if cdb.service_action in REGISTERS else []
    keys += [before.key, parameters.key]
    return tuple(dict.fromkeys(key for key in keys if key))


def as_pictured(before: Tracked, picture: Picture, *, kept: bool) -> Tracked:
    """What the guest has by the logical unit's answer: a registration with the key of `before`, or nothing.

    Args:
        before: What was tracked, with the key that the guest has proved or set.
        picture: What the logical unit says.
        kept: Whether the guest was registered all the time. Then the guest still holds what it held, if the
            reservation is unchanged.

    Raises:
        HolderUnknown: Another nexus has the same key, and either of the two may be the reservation holder.
    """
    if before.key not in picture.keys:
        return Tracked()
    held = picture.reservation
    if held is None or (not held.type.all_registrants and held.key != before.key):
        return replace(before, type=None, scope=0)
    # After a PREEMPT that named the guest's own key, no other nexus has that key. A PREEMPT that named
    # another key leaves a reservation of the guest's key as it was. Only what the guest did not hold is
    # uncertain.
    known = kept and (before.type, before.scope) == (held.type, held.scope)
    if not known and not held.type.all_registrants and picture.keys.count(before.key) > 1:
        raise HolderUnknown(f"several registrants have key {before.key:#x}, one of them is the holder")
    return replace(before, type=held.type, scope=held.scope)


def _after_register(before: Tracked, _: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    if parameters.service_action_key == 0:
        return Tracked()
    return replace(before, key=parameters.service_action_key, aptpl=parameters.aptpl)


def _after_reserve(before: Tracked, cdb: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    return replace(before, key=parameters.key, type=ReservationType(cdb.type), scope=cdb.scope)


def _after_release(before: Tracked, _: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    return replace(before, key=parameters.key, type=None, scope=0)


def _after_clear(_: Tracked, __: PersistentReserveOut, ___: ParameterList) -> Tracked:
    return Tracked()


def _after_preempt(before: Tracked, _: PersistentReserveOut, parameters: ParameterList) -> Tracked:
    return replace(before, key=parameters.key)


_After = Callable[[Tracked, PersistentReserveOut, ParameterList], Tracked]

AFTER: dict[int, _After] = {
    OutServiceAction.REGISTER: _after_register,
    OutServiceAction.RESERVE: _after_reserve,
    OutServiceAction.RELEASE: _after_release,
    OutServiceAction.CLEAR: _after_clear,
    OutServiceAction.PREEMPT: _after_preempt,
    OutServiceAction.PREEMPT_AND_ABORT: _after_preempt,
    OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY: _after_register,
}
"""What each service action leaves (SPC-4 5.13.7 to 5.13.11). After PREEMPT the logical unit must be asked."""
