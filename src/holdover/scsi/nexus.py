"""The I_T nexus, which is the sender of a command as the logical unit sees it (SAM-5 4.7)."""

from __future__ import annotations

import msgspec

from holdover.scsi.reservation.transport_id import TransportID


class ITNexus(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """One initiator port and one target port. A reservation belongs to such a pair.

    Attributes:
        initiator: The initiator port's TransportID (SPC-4 7.6.4); for iSCSI the name and the ISID.
        target_port: The relative target port identifier, 1 to 65535.
    """

    initiator: TransportID
    target_port: int = 1

    def __str__(self) -> str:
        return f"{self.initiator} at target port {self.target_port}"
