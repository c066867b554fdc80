"""The helper's door: PERSISTENT RESERVE commands that QEMU hands over with a descriptor of the disk.

A connection belongs to the guest whose QEMU is at its other end, a descriptor to the device of that guest
whose LUN it leads to. Then a command goes the same way as one through an export.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.who import identify_process
from holdover.helper.server import Peer
from holdover.paths.host_disks import HostDisks
from holdover.paths.path import PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.transport_id import OtherTransportID

__all__ = ["HelperDoor"]

log = structlog.get_logger()

HOST_NEXUS = ITNexus(OtherTransportID(bytes([0x0F]) + bytes(23)))
"""The guest's commands go as the host's own nexus, whose TransportID the host itself does not know."""

_UNKNOWN = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED)
_UNREACHED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)


class _Refused(Exception):
    """Why a command does not go anywhere."""


class HelperDoor:
    """The handler of a `HelperServer` that belongs to an agent."""

    def __init__(self, guests: Mapping[str, HostedGuest], disks: HostDisks) -> None:
        self._guests = guests
        self._disks = disks

    async def handle(self, peer: Peer, descriptor: int, command: Command) -> Response:
        """Carry out one command of a guest.

        A QEMU or a disk that the agent was not told of is refused: passed on, its reservation would be
        tracked by nobody and lost in the next migration.
        """
        try:
            device = await self._device(peer, descriptor)
        except _Refused as error:
            log.warning("a command through the helper was refused", pid=peer.pid, problem=str(error))
            return _UNKNOWN
        except PathError as error:
            log.warning("no answer", pid=peer.pid, error=str(error))
            return _UNREACHED
        return await device.execute(HOST_NEXUS, command)

    async def _device(self, peer: Peer, descriptor: int) -> GuestDevice:
        guest = await self._guest(peer)
        designator = await self._disks.designator_of(descriptor, f"descriptor of guest {guest.name}")
        for device in guest.devices:
            if device.designator is None:
                await device.learn_designator(guest.limits.step)
            if device.designator == designator:
                _check_nexus(device, descriptor)
                return device
        raise _Refused(f"guest {guest.name} has no device on LUN {designator}; add it to the agent's file")

    async def _guest(self, peer: Peer) -> HostedGuest:
        try:
            identity = await asyncio.to_thread(identify_process, peer.pid)
        except OSError as error:
            raise _Refused(f"process {peer.pid}: {error.strerror}") from error
        for name in (identity.name, identity.uuid):
            if name is not None and name in self._guests:
                return self._guests[name]
        known = ", ".join(self._guests) or "none"
        raise _Refused(
            f"QEMU {identity.name or identity.uuid or peer.pid} is no guest of this agent: {known}"
        )


def _check_nexus(device: GuestDevice, descriptor: int) -> None:
    """Two disks of a host may be one LUN through two nexuses: the guest's must be the agent's."""
    drive = Path(device.name)
    if not drive.is_absolute():
        raise _Refused(f"the guest's disk is a device of this host, the agent reaches it by {device.name}")
    ours, theirs = drive.stat().st_rdev, os.fstat(descriptor).st_rdev
    if ours != theirs:
        raise _Refused(
            f"the guest's disk is device {os.major(theirs)}:{os.minor(theirs)}, the agent's drive={drive} is "
            f"{os.major(ours)}:{os.minor(ours)}, the same LUN through another nexus"
        )
