"""One host: its guests, started and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from pathlib import Path as FilePath

import structlog

from holdover import __version__
from holdover.agent.api import HostState
from holdover.agent.config import AgentConfig, GuestConfig, HelperConfig, HostPort, export_iqn, parse_guest
from holdover.agent.device import GuestDevice
from holdover.agent.door import HelperDoor
from holdover.agent.guest import HostedGuest
from holdover.agent.peers import Peers
from holdover.agent.tls import Credentials
from holdover.guest.gate import Gate
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.helper.listener import activated, listen, resolve_group
from holdover.helper.server import HelperServer
from holdover.iscsi.target import IscsiTarget
from holdover.paths.host_disks import HostDisks
from holdover.paths.iscsi import Identity, IscsiSessions, isid_of
from holdover.paths.path import Path, PathError
from holdover.paths.place import open_path, parse_place
from holdover.paths.sgio import SgIo

__all__ = ["Host"]

log = structlog.get_logger()


class Host:
    """The guests of one host and the sessions to their LUNs."""

    def __init__(self, config: AgentConfig, credentials: Credentials | None = None) -> None:
        """``credentials`` are what this host shows to others, and what they are verified by."""
        self.config = config
        self.peers = Peers(config.name, config.peer, credentials)
        self._credentials = credentials
        self.guests: dict[str, HostedGuest] = {}
        self._sessions = IscsiSessions(config.limits.connect)
        self._io = SgIo()
        self._helper: HelperServer | None = None

    async def start(self) -> None:
        """Export every guest, and open the helper's socket.

        Raises:
            OSError: An export cannot listen at its address; what was started is ended again.
            ListenerError: The helper's socket cannot be opened; as above.
        """
        try:
            for guest in self.config.guest:
                await self._start_guest(guest)
            if self.config.helper is not None:
                self._helper = self._start_helper(self.config.helper)
        except BaseException:
            await self.close()
            raise

    def _start_helper(self, config: HelperConfig) -> HelperServer:
        group = None if config.group is None else resolve_group(config.group)
        listener = activated(os.environ) or listen(FilePath(config.socket), int(config.mode, 8), group)
        server = HelperServer(listener, HelperDoor(self.guests, HostDisks(self._io)).handle)
        server.start()
        return server

    async def _start_guest(self, config: GuestConfig) -> None:
        machine, options, address = parse_guest(config, "configuration")
        gate = Gate.INCOMING if config.incoming else Gate.RUNNING
        devices = [self._device(config.name, ScsiBlock(each, machine, gate), each) for each in options]
        target = None if address is None else IscsiTarget(export_iqn(config.name), dict(enumerate(devices)))
        guest = HostedGuest(config.name, self.config.name, machine, devices, target, self.config.limits)
        self.guests[config.name] = guest
        if target is not None and address is not None:
            bound = HostPort(address.host, await target.start(address.host, address.port))
            guest.export = f"iscsi://{bound}/{target.iqn}"
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
        credentials, now = self._credentials, datetime.datetime.now(datetime.UTC)
        return HostState(
            host=self.config.name,
            initiator=self.config.initiator,
            version=__version__,
            guests=tuple(guest.state() for guest in self.guests.values()),
            warnings=credentials.warnings(now) if credentials is not None else (),
        )

    async def close(self) -> None:
        """End all exports, then let go of the LUNs; registrations stay as they are."""
        if self._helper is not None:
            await self._helper.close()
        await self.peers.close()
        for guest in self.guests.values():
            await guest.close()
        self._io.close()
