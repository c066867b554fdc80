"""What tells that other nodes, or a loss of power, may have changed what a guest had established.

None of it says what is true now. It says that the logical unit must be asked before what was tracked is used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from holdover.guest.snoop import PREEMPTS, REGISTERS, Tracked
from holdover.scsi.cdb import PersistentReserveOut
from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.reservation_out import ParameterList
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status

__all__ = ["RESERVATION_ATTENTIONS", "Generation", "attention_of", "casts_doubt", "is_unexplained_conflict"]

RESERVATION_ATTENTIONS: frozenset[int] = frozenset(
    {
        AdditionalSense.RESERVATIONS_PREEMPTED,
        AdditionalSense.RESERVATIONS_RELEASED,
        AdditionalSense.REGISTRATIONS_PREEMPTED,
    }
)
"""What a nexus is told when another one changes its registration or its reservation (SPC-4 5.13.11.2)."""

# Whether registrations have survived these depends on APTPL, which is the logical unit's: the last REGISTER
# of any nexus has set it, whatever our guest asked for. Other resets leave registrations alone (SPC-4
# 5.13.5).
_POWER_ATTENTIONS: frozenset[int] = frozenset(
    {
        AdditionalSense.POWER_ON_RESET_OR_BUS_DEVICE_RESET_OCCURRED,
        AdditionalSense.POWER_ON_OCCURRED,
        AdditionalSense.DEVICE_INTERNAL_RESET,
    }
)

_WRAP = 0xFFFFFFFF
_READS_WITH_GENERATION = frozenset(
    {InServiceAction.READ_KEYS, InServiceAction.READ_RESERVATION, InServiceAction.READ_FULL_STATUS}
)


def attention_of(response: Response) -> int | None:
    """The additional sense of a unit attention, or None for any other end."""
    if response.status is not Status.CHECK_CONDITION:
        return None
    try:
        sense = decode_sense(response.sense)
    except DecodeError:
        return None
    return sense.additional if sense.key is SenseKey.UNIT_ATTENTION and not sense.deferred else None


def casts_doubt(attention: int, tracked: Tracked) -> bool:
    """Whether what is tracked may be wrong when the guest's nexus meets a unit attention."""
    if attention in RESERVATION_ATTENTIONS:
        return True
    # who had nothing has lost nothing
    return attention in _POWER_ATTENTIONS and tracked.key != 0


def is_unexplained_conflict(tracked: Tracked, cdb: PersistentReserveOut, parameters: ParameterList) -> bool:
    """Whether a RESERVATION CONFLICT on a guest's PERSISTENT RESERVE OUT is other than what is tracked leads
    to expect. A wrong key always conflicts, and so does RESERVE beside another reservation of one's own."""
    action = cdb.service_action
    if action != OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY and parameters.key != tracked.key:
        return False
    if action in REGISTERS:
        return True
    if tracked.key == 0:
        return False  # only who is registered may send the others
    return action != OutServiceAction.RESERVE or tracked.type is None or tracked.type == cdb.type


class Generation:
    """PRGENERATION as the guest reads it, against what its own commands explain (SPC-4 6.15.2).

    Registrations of other nodes move it as well. So a generation that moved says no more than: read again.
    """

    def __init__(self) -> None:
        # one object that is replaced, so that `says_nothing` sees a whole one from every thread
        self._seen = _Seen(None, 0, 0)

    def forget(self) -> None:
        """The next one that is read is taken as it is: commands that are not the guest's have moved it."""
        self._seen = replace(self._seen, last=None)

    def explain(self, cdb: PersistentReserveOut, parameters: ParameterList) -> None:
        """A successful PERSISTENT RESERVE OUT of the guest: all but RESERVE and RELEASE add one."""
        action = cdb.service_action
        if action not in REGISTERS and action not in PREEMPTS and action != OutServiceAction.CLEAR:
            return
        # the kernel's target does not count a REGISTER that unregisters, against SPC-4 6.16.2
        certain = action not in REGISTERS or parameters.service_action_key != 0
        seen = self._seen
        self._seen = _Seen(seen.last, seen.least + certain, seen.most + 1)

    def observe(self, action: int, data: bytes) -> bool:
        """Take note of what a PERSISTENT RESERVE IN has read; whether it is other than was to be expected."""
        if action not in _READS_WITH_GENERATION or len(data) < 4:
            return False
        generation = int.from_bytes(data[:4], "big")
        seen = self._seen
        moved = None if seen.last is None else (generation - seen.last) & _WRAP
        unexplained = moved is not None and not seen.least <= moved <= seen.most
        self._seen = _Seen(generation, 0, 0)
        return unexplained

    def says_nothing(self, action: int, data: bytes) -> bool:
        """Whether `observe` would change nothing and return False. For any thread."""
        if action not in _READS_WITH_GENERATION or len(data) < 4:
            return True
        return self._seen == _Seen(int.from_bytes(data[:4], "big"), 0, 0)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The generation that was read last, None: none that counts; and by how much it may have moved since."""

    last: int | None
    least: int
    most: int
