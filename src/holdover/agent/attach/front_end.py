"""The helper front end: PERSISTENT RESERVE commands that QEMU passes on with a descriptor of the disk.

A connection belongs to the guest whose QEMU is at its other end, or whose socket it came by. A descriptor
belongs to the device of that guest on the LUN behind the descriptor. From there a command takes the same way
as one through an export. A PERSISTENT RESERVE IN does so only the first time, and again after something has
changed (`inline_read`).
"""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future
from pathlib import Path

import structlog

from holdover.agent.attach.attached_guest import Attached, Busy, Refused
from holdover.agent.attach.attachment import Attachments
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.attach.processes.process import Process, Way
from holdover.agent.guests.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.helper.connection import Peer
from holdover.helper.on_loop import OnLoop
from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, carry_out
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.transport_id import OtherTransportID
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

log = structlog.get_logger()

HOST_NEXUS = ITNexus(OtherTransportID(bytes([0x0F]) + bytes(23)))
"""The nexus of the guest's commands: the host's own, whose TransportID the host itself does not know."""

_UNKNOWN = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED)
_UNREACHED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)
_BUSY = Response(Status.BUSY)
_TIMEOUT = 20.0
"""The time limit of a command outside the event loop, in seconds."""


class HelperFrontEnd:
    """The part of the front end in the agent's event loop."""

    def __init__(
        self, attachments: Attachments, maker: DeviceMaker, disks: HostDisks, own: str | None = None
    ) -> None:
        """``own`` is the name of the guest whose socket this is; None for the socket of all guests."""
        self._attachments = attachments
        self._maker = maker
        self._disks = disks
        self._refusals = attachments.claims.refusals
        self._own = own

    async def handle(self, peer: Peer, disk: OpenDevice, command: Command) -> Response:
        """Carry out one command of a guest.

        A command that does not certainly come from a guest is refused. If it were passed on, nobody would
        track its reservation, and the next migration would lose it.
        """
        try:
            attached = await self._attachments.guest_of(peer, self._own, await self._shown(peer, disk))
            process = attached.process
            device = await self._device(attached, disk)
        except Refused as error:
            self._refusals.tell("A command through the helper was refused.", peer, str(error))
            await asyncio.sleep(self._refusals.wait(peer.uid))
            return _UNKNOWN
        except Busy as error:
            log.info("A guest got BUSY and will try again.", pid=peer.pid, reason=str(error))
            return _BUSY
        except PathError as error:
            self._refusals.tell("The LUN behind a descriptor of the helper did not answer.", peer, str(error))
            return _UNREACHED
        self._attachments.note_command(attached)
        if process is not None and process.pid == peer.pid:
            _leave_way(process, peer, attached.guest.name, device, disk)
        return await device.execute(HOST_NEXUS, command)

    async def _shown(self, peer: Peer, disk: OpenDevice) -> Designator | None:
        """The LUN of a disk that a process shows for the first time and may write to; otherwise None."""
        if self._attachments.has_shown(peer, self._own) or disk.access == os.O_RDONLY:
            return None
        try:
            return await self._disks.designator_of(disk, f"descriptor of process {peer.pid}")
        except PathError:
            return None  # it shows nothing; the search for its device says why

    def way(self, peer: Peer, disk: OpenDevice) -> Way | None:
        """The device that a command is for, if the loop has stored it. Any thread may call this."""
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


class ThreadFrontEnd:
    """The handler of an agent's `HelperServer`; it uses the event loop or an inline read."""

    def __init__(self, front_end: HelperFrontEnd, on_loop: OnLoop) -> None:
        self._front_end = front_end
        self._on_loop = on_loop

    def handle(self, peer: Peer, disk: OpenDevice, command: Command) -> Response | Future[Response]:
        """Carry out one command of a guest, in a thread of the helper or by the loop.

        A command that waits in the loop, for instance at a gate, blocks neither this thread nor the device's
        turn.
        """
        if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
            way = self._front_end.way(peer, disk)
            answer = None if way is None else self._read(way, disk, command)
            if answer is not None:
                return answer
        return self._on_loop.handle(peer, disk, command)

    def _read(self, way: Way, disk: OpenDevice, command: Command) -> Response | None:
        """The guest's response to a PERSISTENT RESERVE IN; None if the loop must handle the command.

        The loop then sends the command, even if it was sent here already.
        """
        device = way.device
        block = device.block
        # Count in before looking at the gate: if the loop shuts the gate and then finds nobody counted, it
        # knows that nobody passes.
        device.inline_reads.enter()
        try:
            if (
                block.gate is not Gate.RUNNING
                or block.has_pending_attention
                or not way.path.has_open(disk.number)
            ):
                return None
            sent = block.sent
            try:
                response = carry_out(disk, command, device.name, _TIMEOUT)
            except AnswerLost as error:
                # The loop must not send it again: a unit attention lost with the answer would stay unnoticed.
                log.warning(
                    "The LUN did not answer a command of a guest.",
                    guest=device.guest,
                    lun=device.lun_name,
                    reason=error.problem,
                )
                return _UNREACHED
            except PathError:
                return None
            if response.good and block.added is not None:
                return None  # a handover has begun: it may have added registrations to the answer
            answer = block.observe_unchanged(command, response)
            if answer is None:
                answer = self._on_loop.run(lambda: device.observe_reservation_in(command, response, sent))
            return answer
        finally:
            device.inline_reads.leave()


def _leave_way(process: Process, peer: Peer, guest: str, device: GuestDevice, disk: OpenDevice) -> None:
    """Store for threads which device a disk is, if there is only one I_T nexus to it."""
    process.seen = max(process.seen, peer.since)
    if disk.is_disk and device.disk is not None and device.designator is not None:
        process.ways[disk.number] = Way(guest, device, device.designator, device.disk)


async def _check_nexus(device: GuestDevice, disk: OpenDevice) -> None:
    """Refuse a disk that reaches the LUN through another nexus than the agent's drive."""
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
            f"{os.major(ours)}:{os.minor(ours)}; they are the same LUN through different I_T nexuses; write "
            "the guest's device as drive= in the agent's file"
        )
