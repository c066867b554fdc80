"""Statuses that the iSCSI target itself gives to commands (RFC 7143 11.4.7.2)."""

from __future__ import annotations

from holdover.scsi.command import Response
from holdover.scsi.sense import Sense, SenseKey
from holdover.scsi.status import Status

__all__ = ["INCORRECT_AMOUNT_OF_DATA", "PROTOCOL_SERVICE_CRC_ERROR", "UNEXPECTED_UNSOLICITED_DATA"]


def _aborted_command(additional: int) -> Response:
    return Response(Status.CHECK_CONDITION, sense=Sense(SenseKey.ABORTED_COMMAND, additional).encode())


UNEXPECTED_UNSOLICITED_DATA = _aborted_command(0x0C0C)
"""Data that came unasked although the negotiation forbids them."""

INCORRECT_AMOUNT_OF_DATA = _aborted_command(0x0C0D)
"""More or fewer data than were asked for, or data out of order."""

PROTOCOL_SERVICE_CRC_ERROR = _aborted_command(0x4705)
"""Data that are not what their digest says."""
