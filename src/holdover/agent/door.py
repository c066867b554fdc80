"""The helper's door: PERSISTENT RESERVE commands that QEMU hands over with a descriptor of the disk.

A connection belongs to the guest whose QEMU is at its other end, or whose socket it came by; a descriptor to
the device of that guest whose LUN it leads to. Then a command goes the same way as one through an export; a
PERSISTENT RESERVE IN only the first time, and later where something has changed (`aside`).
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from holdover.agent.attach import Attachments
from holdover.agent.attach_devices import DeviceMaker
from holdover.agent.attach_process import Process, Way
from holdover.agent.attached import Attached, Busy, Refused
from holdover.agent.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.helper.connection import Peer
from holdover.helper.on_loop import OnLoop
from holdover.paths.host_disks import HostDisks
from holdover.paths.path import AnswerLost, PathError
from holdover.paths.sgio import OpenDevice, carry_out
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OperationCode
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from holdover.scsi.transport_id import OtherTransportID

__all__ = ["HelperDoor", "ThreadsDoor"]

log = structlog.get_logger()

HOST_NEXUS = ITNexus(OtherTransportID(bytes([0x0F]) + bytes(23)))
"""The guest's commands go as the host's own nexus, whose TransportID the host itself does not know."""

_UNKNOWN = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED)
_UNREACHED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)
_BUSY = Response(Status.BUSY)
_TIMEOUT = 20.0
"""Seconds for a command aside of the loop."""


class HelperDoor:
    """Commands in the agent's event loop."""

    def __init__(
        self, attachments: Attachments, maker: DeviceMaker, disks: HostDisks, own: str | None = None
    ) -> None:
        """``own`` is the name of the guest whose socket it is; None: it is that of all guests."""
        self._attachments = attachments
        self._maker = maker
        self._disks = disks
        self._own = own

    async def handle(self, peer: Peer, disk: OpenDevice, command: Command) -> Response:
        """Carry out one command of a guest.

        What cannot be said to be a guest's is refused: passed on, its reservation would be tracked by nobody
        and lost in the next migration.
        """
        try:
            attached = await self._attachments.guest_of(peer, self._own)
            process = attached.process
            device = await self._device(attached, disk)
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
        if process is not None and process.pid == peer.pid:
            _leave_way(process, peer, attached.guest.name, device, disk)
        return await device.execute(HOST_NEXUS, command)

    def way(self, peer: Peer, disk: OpenDevice) -> Way | None:
        """The device that a command is for, where the loop has left word of it. For any thread."""
        process = self._attachments.process_of(peer)
        way = None if process is None else process.ways.get(disk.number)
        if way is None or way.designator is not way.device.designator:
            return None
        return way if self._own in (None, way.guest) else None

    async def _device(self, attached: Attached, disk: OpenDevice) -> GuestDevice:
        if not attached.fixed:
            return await self._maker.find(attached, disk)
        guest = attached.guest
        designator = await self._disks.designator_of(disk, f"descriptor of guest {guest.name}")
        for device in guest.devices:
            if device.designator is None:
                await device.learn_designator(guest.limits.step)
            if device.designator == designator:
                await _check_nexus(device, disk)
                return device
        raise Refused(f"guest {guest.name} has no device on LUN {designator}; add it to the agent's file")


class ThreadsDoor:
    """The handler of a `HelperServer` that belongs to an agent: by the loop, or aside of it."""

    def __init__(self, door: HelperDoor, on_loop: OnLoop) -> None:
        self._door = door
        self._on_loop = on_loop

    def handle(self, peer: Peer, disk: OpenDevice, command: Command) -> Response:
        """Carry out one command of a guest, in a thread of the helper's; raises as `OnLoop.handle`."""
        if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
            way = self._door.way(peer, disk)
            answer = None if way is None else self._read(way, disk, command)
            if answer is not None:
                return answer
        return self._on_loop.handle(peer, disk, command)

    def _read(self, way: Way, disk: OpenDevice, command: Command) -> Response | None:
        """The guest's answer to a PERSISTENT RESERVE IN; None: nothing was sent, it is the loop's matter."""
        device = way.device
        block = device.block
        # before the gate is looked at: whoever shuts it and then finds nobody here knows that nobody passes
        device.aside.enter()
        try:
            if block.gate is not Gate.RUNNING or block.burdened or not way.path.has_open(disk.number):
                return None
            sent = block.sent
            try:
                response = carry_out(disk, command, device.name, _TIMEOUT)
            except AnswerLost as error:
                # not again by the loop: a unit attention that is lost with it would stay unnoticed
                log.warning("no answer from the LUN", device=device.name, error=error.problem)
                return _UNREACHED
            except PathError:
                return None
            answer = block.glance(command, response)
            if answer is None:
                answer = self._on_loop.run(lambda: device.hear(command, response, sent))
            return answer
        finally:
            device.aside.leave()


def _leave_way(process: Process, peer: Peer, guest: str, device: GuestDevice, disk: OpenDevice) -> None:
    """Leave word for threads which device a disk is, where there is but one I_T nexus to it."""
    process.seen = max(process.seen, peer.since)
    if disk.is_disk and device.disk is not None and device.designator is not None:
        process.ways[disk.number] = Way(guest, device, device.designator, device.disk)


async def _check_nexus(device: GuestDevice, disk: OpenDevice) -> None:
    """Two disks of a host may be one LUN through two nexuses: the guest's must be the agent's."""
    if device.disk is not None and device.disk.has_open(disk.number):
        return
    drive = Path(device.name)
    if not drive.is_absolute():
        raise Refused(f"the guest's disk is a device of this host, the agent reaches it by {device.name}")
    try:
        found = await asyncio.to_thread(drive.stat)
    except OSError as error:
        raise PathError(str(drive), error.strerror or str(error)) from error
    ours, theirs = found.st_rdev, disk.found.st_rdev
    if ours != theirs:
        raise Refused(
            f"the guest's disk is device {os.major(theirs)}:{os.minor(theirs)}, the agent's drive={drive} is "
            f"{os.major(ours)}:{os.minor(ours)}, the same LUN through another nexus; write the guest's into "
            "the agent's file"
        )
