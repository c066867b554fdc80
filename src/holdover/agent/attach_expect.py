"""Guests that are to arrive: made before their QEMU has sent anything, from what the other host says.

QEMU hands nothing to a helper before its guest sends PERSISTENT RESERVE, and by then the reservation must
be here. So the guest gets its devices by their designators, among the disks of this host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import structlog

from holdover.agent.attach import Attachments
from holdover.agent.attach_devices import DeviceMaker
from holdover.agent.attach_disk import DiskPath
from holdover.agent.attached import Attached, Refused
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.who import NotIdentified, identify_process
from holdover.guest.gate import Gate
from holdover.helper.connection import Peer
from holdover.paths.path import PathError
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator

__all__ = ["Arrivals", "ExpectError", "ExpectedDevice"]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ExpectedDevice:
    """A device of a guest that is to arrive.

    Attributes:
        designator: Of its LUN, as text.
        migrate_pr: What the host that it comes from has for it.
    """

    designator: str
    migrate_pr: bool


class ExpectError(Exception):
    """A guest cannot arrive at this host; nothing was made for it.

    Attributes:
        guest: Its name.
        lun: The LUN's designator; empty when it is no single LUN's matter.
    """

    def __init__(self, guest: str, problem: str, lun: str = "") -> None:
        super().__init__(f"guest {guest}: {problem}")
        self.guest = guest
        self.lun = lun


class Arrivals:
    """Makes guests that are announced."""

    def __init__(
        self,
        attachments: Attachments,
        maker: DeviceMaker,
        peers: Callable[[], Iterable[tuple[Peer, str | None]]],
    ) -> None:
        """``peers``: who is connected now, each with the name of the guest whose socket it came by if any."""
        self._attachments = attachments
        self._maker = maker
        self._peers = peers
        self._one_by_one = asyncio.Lock()

    async def expect(self, name: str, machine: str, devices: Sequence[ExpectedDevice]) -> HostedGuest:
        """The guest of a name: the one that is here, else one that is to arrive, with these devices.

        Of a guest that is here, and that no file gives its devices, the devices become these unless it runs.

        Raises:
            ExpectError: This host does not have one of the LUNs, or the guest cannot be handed over to it.
        """
        wanted = {_parse(name, each): each.migrate_pr for each in devices}
        async with self._one_by_one:
            known = self._attachments.get(name)
            if known is None or known.process is None:
                known = await self._connected(name) or known
            if known is None:
                return await self._make(name, machine, wanted)
            if known.left_to_qemu:
                raise ExpectError(
                    name, "its QEMU on this host moves its reservations itself (migrate-pr is on)"
                )
            if known.fixed or (known.gate_now is Gate.RUNNING and known.guest.devices):
                return known.guest
            if known.gate_now is Gate.RUNNING:
                raise ExpectError(name, "runs on this host already; a migration's destination has -incoming")
            async with known.one_by_one:
                await self._equip(known, wanted)
            return known.guest

    async def _make(self, name: str, machine: str, wanted: dict[Designator, bool]) -> HostedGuest:
        try:
            fresh = self._attachments.add(name, machine, Gate.INCOMING)
        except Refused as error:
            raise ExpectError(name, str(error)) from error
        try:
            await self._equip(fresh, wanted)
        except BaseException:
            self._attachments.forget(fresh)
            raise
        return fresh.guest

    async def _connected(self, name: str) -> Attached | None:
        """The guest whose QEMU is connected, and has sent nothing yet."""
        for peer, own in set(self._peers()):
            if not peer.pid or own not in (None, name) or self._attachments.is_attached(peer.pid):
                continue
            try:
                identity = None if own else await asyncio.to_thread(identify_process, peer.pid)
                if identity is None or name in (identity.name, identity.uuid):
                    return await self._attachments.guest_of(peer, own)
            except (NotIdentified, Refused) as error:
                log.info("a client of the helper is not the guest that is expected", why=str(error))
        return None

    async def _equip(self, attached: Attached, wanted: dict[Designator, bool]) -> None:
        """Give a guest that is to arrive the devices that are wanted, and no others."""
        name = attached.guest.name
        settings = {lun: self._maker.expected(attached.names, lun, theirs) for lun, theirs in wanted.items()}
        known = {lun: device for lun, (device, _) in attached.disks.items()}
        keep = {lun for lun, device in known.items() if settings.get(lun) is device.block.migrate_pr}
        keep -= await self._maker.elsewhere(attached)
        for lun, device in known.items():
            if lun not in keep and (device.tracked.key or device.block.stale):
                raise ExpectError(
                    name, f"it holds something here on LUN {lun}, which it is not to arrive with so", str(lun)
                )
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
        log.info("a guest is expected", guest=name, luns=[str(lun) for lun in settings])

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
