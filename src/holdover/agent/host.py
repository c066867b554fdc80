"""One host: its guests, started and ended together."""

from __future__ import annotations

import asyncio
import contextlib

import structlog

from holdover import __version__
from holdover.agent.api import HostState
from holdover.agent.config import AgentConfig, GuestConfig, export_iqn, parse_guest
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.guest.gate import Gate
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.iscsi.target import IscsiTarget
from holdover.paths.iscsi import Identity, IscsiSessions, isid_of
from holdover.paths.path import Path, PathError
from holdover.paths.place import open_path, parse_place
from holdover.paths.sgio import SgIo

__all__ = ["Host"]

log = structlog.get_logger()


class Host:
    """The guests of one host and the sessions to their LUNs."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        self.guests: dict[str, HostedGuest] = {}
        self._sessions = IscsiSessions(config.limits.connect)
        self._io = SgIo()

    async def start(self) -> None:
        """Export every guest.

        Raises:
            OSError: An export cannot listen at its address; what was started is ended again.
        """
        try:
            for guest in self.config.guest:
                await self._start_guest(guest)
        except BaseException:
            await self.close()
            raise

    async def _start_guest(self, config: GuestConfig) -> None:
        machine, options, address = parse_guest(config, "configuration")
        gate = Gate.INCOMING if config.incoming else Gate.RUNNING
        devices = [self._device(config.name, ScsiBlock(each, machine, gate), each) for each in options]
        target = IscsiTarget(export_iqn(config.name), dict(enumerate(devices)))
        guest = HostedGuest(config.name, self.config.name, machine, devices, target, self.config.limits)
        self.guests[config.name] = guest
        port = await target.start(address.host, address.port)
        host = f"[{address.host}]" if ":" in address.host else address.host
        guest.export = f"iscsi://{host}:{port}/{target.iqn}"
        await asyncio.gather(*(self._try_to_identify(config.name, device) for device in devices))

    def _device(self, guest: str, block: ScsiBlock, options: DeviceOptions) -> GuestDevice:
        place = parse_place(options.drive)

        def path_of(initiator: str) -> Path:
            # the nexus must be the same after a restart, and no other guest's
            identity = Identity(self.config.initiator, isid_of(f"{guest}\0{initiator}"))
            return open_path(place, identity, self._sessions, self._io)

        return GuestDevice(block, str(place), path_of)

    async def _try_to_identify(self, guest: str, device: GuestDevice) -> None:
        """Learn the designator for the display; a LUN that is away now is asked again in a handover."""
        with contextlib.suppress(PathError):
            await device.learn_designator(self.config.limits.connect)
            return
        log.warning("the LUN cannot be reached yet", guest=guest, drive=device.name)

    def state(self) -> HostState:
        """What `holdover status` shows."""
        return HostState(
            host=self.config.name,
            initiator=self.config.initiator,
            version=__version__,
            guests=tuple(guest.state() for guest in self.guests.values()),
        )

    async def close(self) -> None:
        """End all exports, then let go of the LUNs; registrations stay as they are."""
        for guest in self.guests.values():
            await guest.close()
        self._io.close()
