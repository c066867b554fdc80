"""A guest whose QEMU moves its reservations itself (``migrate-pr=on``, from 11.0): shown, and left alone."""

from __future__ import annotations

from typing import Protocol

import msgspec

from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.api.documents import GuestState
from holdover.guest.machine_type import MachineType

MARK = "MOVED BY QEMU"
"""What `holdover status` shows in place of the gate."""


class MakeGuest(Protocol):
    """The maker of a guest as the rest of the agent sees it."""

    def __call__(
        self, name: str, machine_type: MachineType, devices: list[GuestDevice], *, left_to_qemu: bool = False
    ) -> HostedGuest: ...


class LeftToQemu(HostedGuest):
    """A guest whose commands pass unchanged, and which cannot be handed over.

    If both QEMU and the agent moved a reservation, one of them would find it gone.
    """

    def state(self) -> GuestState:
        """The document that `holdover status` shows."""
        state = super().state()
        devices = tuple(msgspec.structs.replace(device, gate=MARK) for device in state.devices)
        return msgspec.structs.replace(state, devices=devices)

    @property
    def refusal(self) -> str:
        """Why the guest cannot be handed over."""
        return (
            "its QEMU moves its reservations itself (migrate-pr is on); migrate it without Holdover, or "
            "start it with migrate-pr=off on its scsi-block devices"
        )
