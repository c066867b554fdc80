"""What a guest's PERSISTENT RESERVE OUT leaves on the logical unit, as far as the command tells itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from holdover.guest.question import Picture, QuestionError
from holdover.scsi.cdb import PersistentReserveOut
from holdover.scsi.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation_out import ParameterList

__all__ = ["AFTER", "PREEMPTS", "REGISTERS", "Tracked", "as_pictured", "keys_at_stake"]

REGISTERS = frozenset({OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY})
PREEMPTS = frozenset({OutServiceAction.PREEMPT, OutServiceAction.PREEMPT_AND_ABORT})


@dataclass(frozen=True, slots=True)
class Tracked:
    """What the guest has established on the logical unit.

    Attributes:
        key: Its reservation key; 0 when it is not registered.
        aptpl: Whether it wants registrations and reservation kept through a power loss.
        type: The type of the reservation that it has taken and still holds, or None. Under an all
            registrants reservation of somebody else it is a holder too, and None is still right: there
            is nothing to carry but the registration.
        scope: The scope of that reservation, 4 bits; 0 is the logical unit.
    """

    key: int = 0
    aptpl: bool = False
    type: ReservationType | None = None
    scope: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.key < 1 << 64:
            raise ValueError(f"reservation key {self.key:#x} has more than 64 bits")
        if self.type is not None and self.key == 0:
            raise ValueError("a reservation without a registration")


def keys_at_stake(before: Tracked, cdb: PersistentReserveOut, parameters: ParameterList) -> tuple[int, ...]:
    """The keys that the guest may have while a command is under way, the likeliest first; 0, that it has
    none, is always possible and does not stand there."""
    keys = [parameters.service_action_key] if cdb.service_action in REGISTERS else []
    keys += [before.key, parameters.key]
    return tuple(dict.fromkeys(key for key in keys if key))


def as_pictured(before: Tracked, picture: Picture, *, kept: bool) -> Tracked:
    """What the guest has by what the logical unit says, registered with the key of `before` or not at all.

    Args:
        before: What was tracked, with the key that the guest has proved or set.
        picture: What the logical unit says.
        kept: Whether the guest was registered all along, so that what it held under an unchanged
            reservation it still holds.

    Raises:
        QuestionError: Another nexus has the same key, and either may be the reservation holder.
    """
    if before.key not in picture.keys:
        return Tracked()
    held = picture.reservation
    if held is None or (not held.type.all_registrants and held.key != before.key):
        return replace(before, type=None, scope=0)
    # After a PREEMPT that named our own key we are alone with it, and one that named another key leaves a
    # reservation of our key as it was. So only what we did not hold before is open.
    known = kept and (before.type, before.scope) == (held.type, held.scope)
    if not known and not held.type.all_registrants and picture.keys.count(before.key) > 1:
        raise QuestionError(f"several registrants have key {before.key:#x}, one of them is the holder")
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
"""What each service action leaves (SPC-4 5.13.7 to 5.13.11). Of PREEMPT more has to be asked."""
