"""Guests that are going to arrive: made before their QEMU has sent anything, from what the other host says.

QEMU passes nothing to a helper before its guest sends PERSISTENT RESERVE, and by then the reservation must be
here. So the agent makes the guest's devices by their designators, among the disks of this host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from holdover.agent.attach.attached_guest import Attached, Refused
from holdover.agent.attach.attachment import Attachments
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.attach.disks.disk import DiskPath
from holdover.agent.attach.processes.process_identity import NotIdentified, identify_process
from holdover.agent.attach.records import may_hold
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.guest.gate import Gate
from holdover.helper.connection import Peer
from holdover.journal.records import DeviceRecord
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator
from holdover.scsi.path import PathError
from holdover.scsi.reservation.key import key_text

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ExpectedDevice:
    """A device of a guest that is going to arrive.

    Attributes:
        designator: The designator of the device's LUN, as text.
        migrate_pr: The setting that the source's host has for the device.
    """

    designator: str
    migrate_pr: bool


class ExpectError(Exception):
    """A guest cannot arrive at this host; nothing was made for it.

    Attributes:
        guest: The guest's name.
        lun: The LUN's designator; empty if the error is not about one LUN.
    """

    def __init__(self, guest: str, problem: str, lun: str = "") -> None:
        super().__init__(f"guest {guest}: {problem}")
        self.guest = guest
        self.lun = lun


class ExpectedGuests:
    """The maker of guests that are announced."""

    def __init__(
        self,
        attachments: Attachments,
        maker: DeviceMaker,
        peers: Callable[[], Iterable[tuple[Peer, str | None]]],
    ) -> None:
        """``peers`` returns the clients that are connected now, each with the name of the guest whose socket
        it came by, if any."""
        self._attachments = attachments
        self._maker = maker
        self._peers = peers
        self._one_by_one = asyncio.Lock()
        self._left_out: frozenset[str] = frozenset()

    def restore(self, devices: Iterable[DeviceRecord]) -> None:
        """After `Attachments.restore`: note which guests may have something by the record, though no file and
        no other record names them."""
        known = self._attachments.get
        self._left_out = frozenset(
            each.guest for each in devices if known(each.guest) is None and may_hold(each)
        )

    async def expect(self, name: str, machine_type: str, devices: Sequence[ExpectedDevice]) -> HostedGuest:
        """The guest of that name: the one that is here, or a new one that is going to arrive with these
        devices.

        If the guest is here, no file gives its devices, and it does not run, then it gets these devices.

        Raises:
            ExpectError: This host does not have one of the LUNs, or the guest cannot be handed over to it.
        """
        wanted = {_parse(name, each): each.migrate_pr for each in devices}
        async with self._one_by_one:
            known = self._attachments.get(name)
            if known is None or not known.settled:
                known = await self._connected(name, wanted) or known
            if known is None:
                return await self._make(name, machine_type, wanted)
            if known.left_to_qemu:
                raise ExpectError(
                    name, "its QEMU on this host moves its reservations itself (migrate-pr is on)"
                )
            if known.fixed or (known.gate_now is Gate.RUNNING and known.guest.devices):
                return known.guest
            if known.gate_now is Gate.RUNNING and (known.process is None or known.settled):
                raise ExpectError(name, "runs on this host already; a migration's destination has -incoming")
            async with known.one_by_one:
                await self._equip(known, wanted)
            return known.guest

    async def _make(self, name: str, machine_type: str, wanted: dict[Designator, bool]) -> HostedGuest:
        if name in self._left_out:
            raise ExpectError(
                name,
                "has registrations here on record, and the agent's file does not name it any more; put its "
                f"[[guest]] back and restart the agent, then: holdover guest release {name}",
            )
        try:
            fresh = self._attachments.add(name, machine_type, Gate.INCOMING)
        except Refused as error:
            raise ExpectError(name, str(error)) from error
        try:
            await self._equip(fresh, wanted)
        except BaseException:
            self._attachments.forget(fresh, recorded=False)
            raise
        return fresh.guest

    async def _connected(self, name: str, wanted: Iterable[Designator]) -> Attached | None:
        """The guest whose QEMU is connected and has sent nothing yet; None if there is none.

        If several processes say that they are the guest, it is the one that has one of the guest's disks
        open.
        """
        known = self._attachments.get(name)
        if known is not None and await self._attachments.show_by_open_disks(known, wanted):
            return known
        for peer, own in set(self._peers()):
            if not peer.pid or own not in (None, name) or self._attachments.is_attached(peer.pid):
                continue
            try:
                identity = None if own else await asyncio.to_thread(identify_process, peer.pid)
                if identity is None or name in (identity.name, identity.uuid):
                    found = await self._maker.has_open(peer.pid, wanted)
                    return await self._attachments.guest_of(
                        peer, own, next(iter(wanted), None) if found else None
                    )
            except (NotIdentified, Refused) as error:
                log.info("A client of the helper is not the guest that is expected.", reason=str(error))
        return None

    async def _equip(self, attached: Attached, wanted: dict[Designator, bool]) -> None:
        """Give a guest that is going to arrive the wanted devices, and no others."""
        name = attached.guest.name
        settings = {lun: self._maker.expected(attached.names, lun, theirs) for lun, theirs in wanted.items()}
        known = {lun: device for lun, (device, _) in attached.disks.items()}
        keep = {lun for lun, device in known.items() if settings.get(lun) is device.block.migrate_pr}
        keep -= await self._maker.elsewhere(attached)
        for lun, device in known.items():
            if lun not in keep and (device.tracked.key or device.block.stale):
                raise ExpectError(name, left_here(lun, device), str(lun))
        missing = [lun for lun in settings if lun not in keep]
        made = await asyncio.gather(
            *(self._device(attached, lun, settings[lun]) for lun in missing), return_exceptions=True
        )
        problems = [each for each in made if isinstance(each, BaseException)]
        pairs = [each for each in made if not isinstance(each, BaseException)]
        if problems:
            for _, device, _ in pairs:
                await device.close()
            raise problems[0]
        await self._take_away(attached, [lun for lun in known if lun not in keep])
        for lun, device, path in pairs:
            attached.append(lun, device, path)
        attached.expected = True
        attached.move_gate(Gate.INCOMING)
        await self._maker.note(attached)
        self._attachments.remember_for_a_while(attached)
        log.info("A guest is going to arrive.", guest=name, luns=[str(lun) for lun in settings])

    async def _take_away(self, attached: Attached, luns: Sequence[Designator]) -> None:
        for lun in luns:
            await attached.remove(lun).close()
        if luns:
            await self._maker.forget(attached.guest.name, luns)

    async def _device(
        self, attached: Attached, lun: Designator, migrate_pr: bool
    ) -> tuple[Designator, GuestDevice, DiskPath]:
        name = attached.guest.name
        try:
            path = await self._maker.path(lun, attached.process)
            return lun, await self._maker.make(attached, lun, path, migrate_pr, Gate.INCOMING), path
        except (Refused, PathError, OSError) as error:
            raise ExpectError(name, str(error), str(lun)) from error


def _parse(name: str, device: ExpectedDevice) -> Designator:
    try:
        return Designator.parse(device.designator)
    except DecodeError as error:
        raise ExpectError(name, str(error), device.designator) from error


def left_here(lun: Designator, device: GuestDevice) -> str:
    """Why a guest cannot arrive without a device that it has here, and what to do."""
    key = device.tracked.key
    if not key:
        return (
            f"it is not known what the guest has on LUN {lun} from this host, and the handover does not "
            f"include that LUN; holdover pr status {device.name} shows it"
        )
    return (
        f"it is still registered on LUN {lun} from this host, and the handover does not have that device; "
        f"remove the registration first: holdover pr register {device.name} --key {key_text(key)} --new-key 0"
    )
