"""The signs that other nodes, or a power loss, may have changed what a guest had established.

No sign tells what is true now. A sign tells that the logical unit must be asked before the tracked state is
used.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdover.guest.snoop import PREEMPTS, REGISTERS
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.reservation.reservation_out import ParameterList
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status

RESERVATION_ATTENTIONS: frozenset[int] = frozenset(
    {
        AdditionalSense.RESERVATIONS_PREEMPTED,
        AdditionalSense.RESERVATIONS_RELEASED,
        AdditionalSense.REGISTRATIONS_PREEMPTED,
    }
)
"""What a nexus is told when another nexus changes its registration or reservation (SPC-4 5.13.11.2)."""

# Whether registrations survived these events depends on APTPL. APTPL is a setting of the logical unit: the
# last REGISTER of any nexus has set it, whatever our guest asked for. Other resets leave registrations
# unchanged (SPC-4 5.13.5).
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
    """The additional sense of a unit attention, or None for any other response."""
    if response.status is not Status.CHECK_CONDITION:
        return None
    try:
        sense = decode_sense(response.sense)
    except DecodeError:
        return None
    return sense.additional if sense.key is SenseKey.UNIT_ATTENTION and not sense.deferred else None


def casts_doubt(attention: int, tracked: Tracked) -> bool:
    """Whether the tracked state may be wrong after the guest's nexus met this unit attention."""
    if attention in RESERVATION_ATTENTIONS:
        return True
    # a guest without a key has lost nothing
    return attention in _POWER_ATTENTIONS and tracked.key != 0


def is_unexplained_conflict(tracked: Tracked, cdb: PersistentReserveOut, parameters: ParameterList) -> bool:
    """Whether the tracked state does not explain a RESERVATION CONFLICT on a guest's PERSISTENT RESERVE OUT.

    A wrong key always conflicts. So does a RESERVE of another type than the reservation that the guest holds.
    """
    action = cdb.service_action
    if action != OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY and parameters.key != tracked.key:
        return False
    if action in REGISTERS:
        return True
    if tracked.key == 0:
        return False  # only a registered nexus may send the other service actions
    return action != OutServiceAction.RESERVE or tracked.type is None or tracked.type == cdb.type


class Generation:
    """PRGENERATION as the guest reads it, compared with what the guest's own commands explain (SPC-4 6.15.2).

    Registrations of other nodes move PRGENERATION as well. So a PRGENERATION that moved says no more than:
    ask the logical unit again. A PRGENERATION without a known earlier value says the same: the agent was
    restarted, or its own commands have moved PRGENERATION, and another node may have acted in the meantime.
    """

    def __init__(self) -> None:
        # this object is replaced whole, so that `says_nothing` reads a consistent one from every thread
        self._seen = _Seen(None, 0, 0)

    @property
    def is_known(self) -> bool:
        """Whether there is an earlier value with which to compare the next one."""
        return self._seen.last is not None

    def know(self, generation: int | None) -> None:
        """Note that the tracked state is true as of ``generation``; None: the value is not known."""
        self._seen = _Seen(generation, 0, 0)

    def explain(self, cdb: PersistentReserveOut, parameters: ParameterList) -> None:
        """Count a successful PERSISTENT RESERVE OUT of the guest: all but RESERVE and RELEASE add one."""
        action = cdb.service_action
        if action not in REGISTERS and action not in PREEMPTS and action != OutServiceAction.CLEAR:
            return
        # Linux's kernel target does not count a REGISTER that unregisters, against SPC-4 6.16.2
        certain = action not in REGISTERS or parameters.service_action_key != 0
        seen = self._seen
        self._seen = _Seen(seen.last, seen.least + certain, seen.most + 1)

    def observe(self, action: int, data: bytes) -> bool:
        """Note the PRGENERATION that a PERSISTENT RESERVE IN has read. Returns whether it is unexpected."""
        generation = _generation_in(action, data)
        if generation is None:
            return False
        seen = self._seen
        self._seen = _Seen(generation, 0, 0)
        return seen.last is None or not seen.least <= (generation - seen.last) & _WRAP <= seen.most

    def says_nothing(self, action: int, data: bytes) -> bool:
        """Whether `observe` would change nothing and return False. Any thread may call this."""
        generation = _generation_in(action, data)
        return generation is None or self._seen == _Seen(generation, 0, 0)


def generation_read(command: Command, data: bytes) -> int | None:
    """PRGENERATION in the data that a command has read; None if the data do not contain it."""
    if command.opcode != OperationCode.PERSISTENT_RESERVE_IN or len(command.cdb) < 2:
        return None
    return _generation_in(command.cdb[1] & 0x1F, data)


def _generation_in(action: int, data: bytes) -> int | None:
    if action not in _READS_WITH_GENERATION or len(data) < 4:
        return None
    return int.from_bytes(data[:4], "big")


@dataclass(frozen=True, slots=True)
class _Seen:
    """The value that was read last (None: none that counts), and by how much it may have moved since."""

    last: int | None
    least: int
    most: int
