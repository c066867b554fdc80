"""The helper's door: PERSISTENT RESERVE commands that QEMU hands over with a descriptor of the disk.

A connection belongs to the guest whose QEMU is at its other end, or whose socket it came by; a descriptor to
the device of that guest whose LUN it leads to. Then a command goes the same way as one through an export.
"""

from __future__ import annotations

import os
from pathlib import Path

import structlog

from holdover.agent.attach import Attachments
from holdover.agent.attach_devices import DeviceMaker
from holdover.agent.attached import Attached, Busy, Refused
from holdover.agent.device import GuestDevice
from holdover.helper.connection import Peer
from holdover.paths.host_disks import HostDisks
from holdover.paths.path import PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from holdover.scsi.transport_id import OtherTransportID

__all__ = ["HelperDoor"]

log = structlog.get_logger()

HOST_NEXUS = ITNexus(OtherTransportID(bytes([0x0F]) + bytes(23)))
"""The guest's commands go as the host's own nexus, whose TransportID the host itself does not know."""

_UNKNOWN = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED)
_UNREACHED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)
_BUSY = Response(Status.BUSY)


class HelperDoor:
    """The handler of a `HelperServer` that belongs to an agent."""

    def __init__(
        self, attachments: Attachments, maker: DeviceMaker, disks: HostDisks, own: str | None = None
    ) -> None:
        """``own`` is the name of the guest whose socket it is; None: it is that of all guests."""
        self._attachments = attachments
        self._maker = maker
        self._disks = disks
        self._own = own

    async def handle(self, peer: Peer, descriptor: int, command: Command) -> Response:
        """Carry out one command of a guest.

        What cannot be said to be a guest's is refused: passed on, its reservation would be tracked by nobody
        and lost in the next migration.
        """
        try:
            attached = await self._attachments.guest_of(peer, self._own)
            device = await self._device(attached, descriptor)
        except Refused as error:
            log.warning("a command through the helper was refused", pid=peer.pid, problem=str(error))
            return _UNKNOWN
        except Busy as error:
            log.info("a guest was asked to try again", pid=peer.pid, why=str(error))
            return _BUSY
        except PathError as error:
            log.warning("no answer", pid=peer.pid, error=str(error))
            return _UNREACHED
        self._attachments.note_command(attached)
        return await device.execute(HOST_NEXUS, command)

    async def _device(self, attached: Attached, descriptor: int) -> GuestDevice:
        if not attached.fixed:
            return await self._maker.find(attached, descriptor)
        guest = attached.guest
        designator = await self._disks.designator_of(descriptor, f"descriptor of guest {guest.name}")
        for device in guest.devices:
            if device.designator is None:
                await device.learn_designator(guest.limits.step)
            if device.designator == designator:
                _check_nexus(device, descriptor)
                return device
        raise Refused(f"guest {guest.name} has no device on LUN {designator}; add it to the agent's file")


def _check_nexus(device: GuestDevice, descriptor: int) -> None:
    """Two disks of a host may be one LUN through two nexuses: the guest's must be the agent's."""
    drive = Path(device.name)
    if not drive.is_absolute():
        raise Refused(f"the guest's disk is a device of this host, the agent reaches it by {device.name}")
    ours, theirs = drive.stat().st_rdev, os.fstat(descriptor).st_rdev
    if ours != theirs:
        raise Refused(
            f"the guest's disk is device {os.major(theirs)}:{os.minor(theirs)}, the agent's drive={drive} is "
            f"{os.major(ours)}:{os.minor(ours)}, the same LUN through another nexus; write the guest's into "
            "the agent's file"
        )
