"""Attaches disks to the exports of guests and detaches them, while the guests run."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.records import device_record, keep_records
from holdover.agent.handover.preflight import preflight_after_start
from holdover.agent.hotplug.record import DiskRecord
from holdover.agent.placement.placement import PlacementProblem
from holdover.agent.placement.releasing import unregister_guest
from holdover.api.documents import Problem
from holdover.api.placement_documents import AttachDisk, DetachDisk, PlacementResult
from holdover.config.agent_file import AgentConfig, ConfigError, GuestConfig
from holdover.config.secrets import locator_of
from holdover.config.two_addresses import address_warnings
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptionError, DeviceOptions, parse_device
from holdover.iscsi.names import MAX_LUN
from holdover.journal.journal import JournalError, JournalLike
from holdover.paths.locator import LocatorError
from holdover.reservations.steps import StepFailed
from holdover.scsi.path import PathError
from holdover.scsi.reservation.key import key_text
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

log = structlog.get_logger()

_LUNS_CHANGED = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.REPORTED_LUNS_DATA_HAS_CHANGED)

MakeDevice = Callable[[str, DeviceOptions, MachineType, Gate], Awaitable[GuestDevice]]


class _Refused(Exception):
    """A disk is not attached or detached; the message says why, and what to do."""


class Hotplug:
    """Changes which disks the exports of this host's guests have."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        guests: Mapping[str, HostedGuest],
        attached: Callable[[str], Attached | None],
        moves: Callable[[str], bool],
        record: DiskRecord,
        journal: JournalLike,
        make: MakeDevice,
        lock: Callable[[str], asyncio.Lock],
    ) -> None:
        """``moves`` returns whether a guest moves now. ``make`` makes a device of a guest. ``lock`` returns
        the lock without which no handover of a guest begins."""
        self._config = config
        self._guests = guests
        self._attached = attached
        self._moves = moves
        self._record = record
        self._journal = journal
        self._make = make
        self._lock = lock
        self._served: dict[str, dict[int, str]] = {}
        """For each guest, what its export has: by LUN number the device in QEMU's syntax."""

    async def begin(self, config: GuestConfig) -> dict[int, str]:
        """The devices of a guest when the agent starts, by LUN number, in QEMU's syntax.

        Raises:
            ConfigError: The agent's file contradicts the record.
            OSError: The record cannot be written.
        """
        self._served[config.name] = await self.wanted(config)
        return self.served(config.name)

    def served(self, name: str) -> dict[int, str]:
        """The devices of a guest's export now, by LUN number, in QEMU's syntax; none before `begin`."""
        return dict(self._served.get(name, {}))

    async def wanted(self, config: GuestConfig) -> dict[int, str]:
        """The devices that a guest has by the agent's file and by what operators have changed since. The
        changes that the file has taken over are forgotten. Raises as `begin`.
        """
        await self._record.settle(config)
        return self._record.devices(config)

    async def attach(self, name: str, request: AttachDisk) -> PlacementResult:
        """Give the export of a guest one more disk.

        Raises:
            PlacementProblem: It is not attached; the problem says why.
        """
        return await self._do(name, lambda: self._attach(name, request))

    async def detach(self, name: str, request: DetachDisk) -> PlacementResult:
        """Take a disk away from the export of a guest.

        Raises:
            PlacementProblem: It is not detached; the problem says why.
        """
        return await self._do(name, lambda: self._detach(name, request))

    async def _do(self, name: str, what: Callable[[], Awaitable[str]]) -> PlacementResult:
        here = self._config().name
        try:
            async with self._lock(name):
                return PlacementResult(guest=name, host=here, text=await what())
        except (_Refused, ConfigError, PathError, StepFailed, JournalError, OSError) as error:
            text = f"the disks of guest {name} on {here} stay as they are: {error}"
            raise PlacementProblem(Problem(detail=text, host=here, guest=name)) from error

    # -- attach -------------------------------------------------------------------------------------

    async def _attach(self, name: str, request: AttachDisk) -> str:
        guest, attached, config = self._exported(name)
        self._require_at_rest(name)
        options = _parsed(request.device)
        number = self._free_number(guest, config, request.lun)
        ids = [each.block.options.id for each in guest.devices]
        if options.id is not None and options.id in ids:
            raise _Refused(f"device id {options.id!r} is in use; give another one")
        device = await self._make(name, options, MachineType.parse(config.machine_type), attached.gate_now)
        device.number = number
        try:
            await self._learn(guest, device)
            await self._keep(guest, attached, config, device, request.device)
        except BaseException:
            await device.close()
            raise
        self._serve(guest, [*guest.devices, device])
        log.info("A disk was attached.", guest=name, lun=device.lun_name)
        for text in address_warnings(name, map(parse_device, self._served[name].values())):
            log.warning("The agent warns its operator.", guest=name, reason=text)
        return (
            f"guest {name} has {device.designator} at LUN {number} of its export. Attach the disk "
            "where the guest may move to, too; for good, write it into the agent's file"
        )

    def _free_number(self, guest: HostedGuest, config: GuestConfig, wanted: int | None) -> int:
        taken = guest.luns
        if wanted is None:
            return next(each for each in range(len(config.devices), MAX_LUN + 1) if each not in taken)
        if not 0 <= wanted <= MAX_LUN:
            raise _Refused(f"LUN {wanted} is not within 0 to {MAX_LUN}")
        if wanted in taken:
            raise _Refused(
                f"LUN {wanted} is in use by {taken[wanted].lun_name}; give another number, or none for the "
                "next one that is free"
            )
        return wanted

    async def _learn(self, guest: HostedGuest, device: GuestDevice) -> None:
        limit = guest.limits.connect
        designator = await device.learn_designator(limit)
        for other in guest.devices:
            if other.designator == designator:
                raise _Refused(f"the guest has {designator} at LUN {guest.number_of(other)} already")
        if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
            await preflight_after_start(device, limit, recorded=False)

    async def _keep(
        self, guest: HostedGuest, attached: Attached, config: GuestConfig, device: GuestDevice, text: str
    ) -> None:
        """Put a new device on record, so that an agent that is restarted has it."""
        number = guest.number_of(device)
        self._require_at_rest(guest.name)
        await self._record.attach(config, number, text)
        try:
            await self._journal.put(device_record(guest.name, device))
            self._require_at_rest(guest.name)
        except BaseException:
            await self._record.detach(config, number, text)
            raise
        self._served[guest.name][number] = text
        device.move_gate(attached.gate_now)
        keep_records(guest.name, device, self._journal)

    # -- detach -------------------------------------------------------------------------------------

    async def _detach(self, name: str, request: DetachDisk) -> str:
        guest, _, config = self._exported(name)
        device = guest.luns.get(request.lun)
        if device is None:
            numbers = ", ".join(str(each) for each in sorted(guest.luns))
            raise _Refused(f"its export has no LUN {request.lun}; it has {numbers}")
        if len(guest.devices) == 1:
            raise _Refused("an export needs a disk, and this is its only one; attach another one first")
        self._require_at_rest(name)
        await self._require_released(device, guest, release=request.release)
        device.move_gate(Gate.DEPARTED)
        try:
            await self._remove(guest, config, device, release=request.release)
        except BaseException:
            await asyncio.shield(self._put_back(guest, device))
            raise
        self._serve(guest, [each for each in guest.devices if each is not device])
        await device.close()
        log.warning("A disk was detached.", guest=name, lun=device.lun_name)
        return f"guest {name} has {device.lun_name} no more, and LUN {request.lun} of its export is free"

    async def _put_back(self, guest: HostedGuest, device: GuestDevice) -> None:
        """Open the gate of a device that stays; what was put on record meanwhile has the shut gate."""
        if device.block.gate is Gate.DEPARTED:
            device.move_gate(next(each for each in guest.devices if each is not device).block.gate)
        try:
            await self._journal.put(device_record(guest.name, device))
        except JournalError as error:
            log.error(
                "A disk stays, and the record has its gate as departed.",
                guest=guest.name,
                lun=device.lun_name,
                reason=str(error),
            )

    async def _require_released(self, device: GuestDevice, guest: HostedGuest, *, release: bool) -> None:
        if not device.block.migrate_pr or release:
            return
        if device.block.tracked.key or device.block.stale:
            await device.reread(guest.limits.step)
        _require_nothing(device, guest)

    async def _remove(
        self, guest: HostedGuest, config: GuestConfig, device: GuestDevice, *, release: bool
    ) -> None:
        """End the guest's commands to a device, and take the device off the record."""
        if not await device.drain(guest.limits.drain):
            raise _Refused(f"the guest's commands to {device.lun_name} do not end; try again")
        was_registered = bool(device.tracked.key)
        if device.block.migrate_pr:
            if release:
                await unregister_guest(device, guest.limits.step)
            _require_nothing(device, guest)
        try:
            await self._forget(guest, config, device)
        except (_Refused, JournalError, OSError) as error:
            if was_registered:
                raise _Refused(
                    f"{error}; the guest's registration on {device.lun_name} is removed already"
                ) from error
            raise

    async def _forget(self, guest: HostedGuest, config: GuestConfig, device: GuestDevice) -> None:
        number = guest.number_of(device)
        text = self._served[guest.name][number]
        await self._record.detach(config, number, text)
        try:
            await self._journal.forget((guest.name, device.lun_of_record))
            self._require_at_rest(guest.name)
        except BaseException:
            await self._record.attach(config, number, text)
            raise
        del self._served[guest.name][number]

    # -- both ---------------------------------------------------------------------------------------

    def _exported(self, name: str) -> tuple[HostedGuest, Attached, GuestConfig]:
        guest, attached = self._guests.get(name), self._attached(name)
        config = next((each for each in self._config().guest if each.name == name), None)
        if guest is None or attached is None or config is None or guest.target is None:
            raise _Refused(
                "it has no export there; a disk behind the helper's socket comes and goes with QEMU's own "
                "device_add and device_del"
            )
        return guest, attached, config

    def _require_at_rest(self, name: str) -> None:
        if self._moves(name):
            raise _Refused(
                f"a handover or a migration of it is under way; holdover handover status {name} says what "
                "comes next, then try again"
            )

    def _serve(self, guest: HostedGuest, devices: list[GuestDevice]) -> None:
        """Export these devices from now on, and tell the guest's sessions on those that stay."""
        stay = [each for each in guest.devices if each in devices]
        guest.devices = devices
        if guest.target is not None:
            guest.target.serve(guest.luns)
        for device in stay:
            if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
                device.block.owe(_LUNS_CHANGED)


def _require_nothing(device: GuestDevice, guest: HostedGuest) -> None:
    tracked, number = device.tracked, guest.number_of(device)
    to_go_on = f"holdover guest detach-disk {guest.name} {number} --release"
    if tracked.key:
        holds = "" if tracked.type is None else ", and holds the reservation"
        raise _Refused(
            f"the guest is registered on {device.lun_name} with key {key_text(tracked.key)}{holds}; have the "
            f"guest give that up, or: {to_go_on}"
        )
    if device.block.stale:
        raise _Refused(
            f"whether the guest has registrations on {device.lun_name} is not certain: {device.report}; "
            f"to remove what it has: {to_go_on}"
        )


def _parsed(text: str) -> DeviceOptions:
    try:
        options = parse_device(text)
        locator_of(options)
    except (DeviceOptionError, LocatorError) as error:
        raise _Refused(str(error)) from error
    return options
