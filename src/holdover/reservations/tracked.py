"""What an I_T nexus has on a logical unit: its registration, and the reservation that it holds."""

from __future__ import annotations

import msgspec

from holdover.scsi.cdbs.opcodes import ReservationType


class Tracked(msgspec.Struct, frozen=True, gc=False):
    """What the guest has established on the logical unit.

    Attributes:
        key: The guest's reservation key; 0 if the guest is not registered.
        aptpl: Whether the guest has asked that registrations and the reservation survive a power loss
            (APTPL).
        type: The type of the reservation that the guest has taken and still holds; None if there is none. If
            another node has taken an all registrants reservation, the guest is a holder too. None is still
            right then, because only the registration must move.
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
