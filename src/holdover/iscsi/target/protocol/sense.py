"""The responses that the iSCSI target itself gives to commands (RFC 7143 11.4.7.2)."""

from __future__ import annotations

from holdover.scsi.command import Response
from holdover.scsi.sense import Sense, SenseKey
from holdover.scsi.status import Status


def _aborted_command(additional: int) -> Response:
    return Response(Status.CHECK_CONDITION, sense=Sense(SenseKey.ABORTED_COMMAND, additional).encode())


UNEXPECTED_UNSOLICITED_DATA = _aborted_command(0x0C0C)
"""Unsolicited data came although the negotiation forbids them."""

INCORRECT_AMOUNT_OF_DATA = _aborted_command(0x0C0D)
"""More or fewer data came than the target asked for, or data came out of order."""

PROTOCOL_SERVICE_CRC_ERROR = _aborted_command(0x4705)
"""Data do not match their digest."""
