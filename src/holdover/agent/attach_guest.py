"""A guest whose QEMU moves its reservations itself (``migrate-pr=on``, from 11.0): shown, and left alone."""

from __future__ import annotations

import msgspec

from holdover.agent.api import GuestState
from holdover.agent.guest import HostedGuest

__all__ = ["MARK", "LeftToQemu"]

MARK = "MOVED BY QEMU"
"""What `holdover status` shows in place of the gate."""


class LeftToQemu(HostedGuest):
    """Its commands pass untouched, and it cannot be handed over: one of two who move a reservation would
    find it gone."""

    def state(self) -> GuestState:
        """What `holdover status` shows."""
        state = super().state()
        devices = tuple(msgspec.structs.replace(device, gate=MARK) for device in state.devices)
        return msgspec.structs.replace(state, devices=devices)

    @property
    def refusal(self) -> str:
        """Why it is not handed over."""
        return (
            "its QEMU moves its reservations itself (migrate-pr is on); migrate it without Holdover, or "
            "start it with migrate-pr=off on its scsi-block devices"
        )
