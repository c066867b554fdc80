"""One host: its guests, started and ended together."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path as FilePath

import msgspec
import structlog

from holdover import __version__
from holdover.agent.api import GuestState, HostState, PeerAddress
from holdover.agent.attach import Attachments
from holdover.agent.attach_devices import DeviceMaker
from holdover.agent.attach_expect import Arrivals, ExpectedDevice
from holdover.agent.attach_guest import LeftToQemu
from holdover.agent.attach_records import Keeper
from holdover.agent.config import (
    AgentConfig,
    ConfigError,
    GuestConfig,
    HelperConfig,
    HostPort,
    export_iqn,
    parse_guest,
)
from holdover.agent.device import GuestDevice
from holdover.agent.door import HelperDoor, ThreadsDoor
from holdover.agent.few_at_once import few_at_once
from holdover.agent.guest import HostedGuest
from holdover.agent.handovers import Handovers
from holdover.agent.looking import look_after_start
from holdover.agent.peers import Peers
from holdover.agent.records import Remembered, keep_records
from holdover.agent.rules import Rules, Undecided
from holdover.agent.runner import run_steps
from holdover.agent.tls import Credentials
from holdover.guest.gate import Gate
from holdover.guest.machine import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.handover.steps import StepFailed, identify
from holdover.helper.connection import Peer
from holdover.helper.listener import activated, listen, resolve_group
from holdover.helper.on_loop import OnLoop
from holdover.helper.server import HelperServer
from holdover.iscsi.target import IscsiTarget
from holdover.iscsi.url import IscsiUrl
from holdover.journal.journal import JournalLike
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import DeviceRecord, JournalContents
from holdover.paths.host_disks import HostDisks
from holdover.paths.iscsi import Identity, IscsiSessions, isid_of
from holdover.paths.path import Path, PathError
from holdover.paths.place import open_path, parse_place
from holdover.paths.sgio import SgIo
from holdover.scsi.inquiry import Designator

__all__ = ["Host"]

log = structlog.get_logger()

_START_SECONDS = 1.0
"""How long an agent that begins waits for LUNs before it can be asked itself; they may say it later."""

_SETTLING_AT_ONCE = 32
_SETTLING_SECONDS = 5.0
"""So many guests' LUNs are asked at once when an agent begins; guests that take longer no longer count."""

_LUN_AWAY_SECONDS = 5.0
"""From one question to the next whether a LUN is there again."""

_NOTHING = Remembered(())


class Host:
    """The guests of one host and the sessions to their LUNs."""

    def __init__(
        self,
        config: AgentConfig,
        credentials: Credentials | None = None,
        journal: JournalLike | None = None,
    ) -> None:
        """``credentials`` are what this host shows to others, and what they are verified by; ``journal`` is
        what it goes on from, None: it forgets with its process."""
        self.config = config
        self.journal: JournalLike = MemoryJournal() if journal is None else journal
        self._records = self.journal.load()
        self._remembered = _by_guest(self._records.devices, {guest.name for guest in config.guest})
        self.peers = Peers(config.name, config.peer, credentials)
        self._credentials = credentials
        self.guests: dict[str, HostedGuest] = {}
        self._sessions = IscsiSessions(config.limits.connect)
        self._io = SgIo()
        self._disks = HostDisks(self._io)
        self._rules = Rules(config.rule)
        self._maker = DeviceMaker(
            self._rules, self._disks, self._io, Keeper(self.journal), config.limits.step, self._moving
        )
        self._attachments = Attachments(config, self.guests, self._hosted, self._maker, self._moving)
        self._arrivals = Arrivals(self._attachments, self._maker, self._connected)
        self.handovers = Handovers(config, self.guests, self.peers, self.journal, self.expect)
        self._helpers: dict[str, tuple[HelperServer, OnLoop]] = {}
        self._settling: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Export every guest, and open the helper's sockets.

        Raises:
            OSError: An export cannot listen at its address; what was started is ended again.
            ListenerError: A helper's socket cannot be opened; as above.
            ConfigError: A rule asks for the LUN of a device that cannot be reached; as above.
        """
        try:
            for guest in self.config.guest:
                await self._make_guest(guest)
            self._attachments.restore(self._records.guests, self._records.devices)
            # before any command of a guest passes
            self.handovers.restore(self._records.handovers)
            self._doubt_all()
            for guest in self.config.guest:
                await self._export(guest)
            settings = self.config.helper or HelperConfig()
            if settings.socket is not None:
                self._start_helper(settings.socket, settings)
            for guest in self.config.guest:
                if guest.helper is not None:
                    self._start_helper(guest.helper, settings, guest.name)
            self._records = JournalContents((), (), ())
            self._settling.append(asyncio.ensure_future(self._settle_in()))
            await asyncio.wait(self._settling, timeout=_START_SECONDS)
        except BaseException:
            await self.close()
            raise

    async def expect(self, name: str, machine: str, devices: Sequence[ExpectedDevice]) -> HostedGuest:
        """The guest of a name: the one that is here, else one that is to arrive, with these devices.

        Raises:
            ExpectError: This host does not have one of the LUNs, or the guest cannot be handed over to it.
        """
        return await self._arrivals.expect(name, machine, devices)

    @property
    def helper_sockets(self) -> tuple[str, ...]:
        """Where helpers listen."""
        return tuple(self._helpers)

    def _moving(self, name: str) -> bool:
        return self.handovers.is_moving(name)

    def _connected(self) -> tuple[tuple[Peer, str | None], ...]:
        own = {guest.helper: guest.name for guest in self.config.guest}
        servers = [(server, own.get(socket)) for socket, (server, _) in self._helpers.items()]
        return tuple((peer, name) for server, name in servers for peer in server.peers)

    def _start_helper(self, socket: str, settings: HelperConfig, own: str | None = None) -> None:
        group = None if settings.group is None else resolve_group(settings.group)
        # systemd opens the one of all guests
        given = activated(os.environ) if own is None else None
        listener = given or listen(FilePath(socket), int(settings.mode, 8), group)
        door = HelperDoor(self._attachments, self._maker, self._disks, own)
        on_loop = OnLoop(door.handle)
        loop = asyncio.get_running_loop()

        def welcome(peer: Peer) -> None:
            # in a thread of the server's, which may outlive the loop
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._attachments.welcome, peer, own)

        server = HelperServer(listener, ThreadsDoor(door, on_loop).handle, welcome=welcome)
        self._helpers[socket] = server, on_loop
        server.start()

    def _hosted(
        self,
        name: str,
        machine: MachineType,
        devices: list[GuestDevice],
        target: IscsiTarget | None = None,
        *,
        left_to_qemu: bool = False,
    ) -> HostedGuest:
        kind = LeftToQemu if left_to_qemu else HostedGuest
        return kind(name, self.config.name, machine, devices, target, self.config.limits)

    async def _make_guest(self, config: GuestConfig) -> None:
        machine, options, address = parse_guest(config, "configuration")
        gate = Gate.INCOMING if config.incoming else Gate.RUNNING
        devices = [await self._device(config.name, each, machine, gate) for each in options]
        remembered = self._remembered.get(config.name, _NOTHING)
        for device in devices:
            remembered.restore(device)
            keep_records(config.name, device, self.journal)
        target = None if address is None else IscsiTarget(export_iqn(config.name), dict(enumerate(devices)))
        guest = self._hosted(config.name, machine, devices, target)
        self.guests[config.name] = guest
        self._attachments.take_up(guest, machine, gate)

    async def _export(self, config: GuestConfig) -> None:
        _, _, address = parse_guest(config, "configuration")
        guest = self.guests[config.name]
        if guest.target is not None and address is not None:
            bound = HostPort(address.host, await guest.target.start(address.host, address.port))
            guest.export = f"iscsi://{bound}/{guest.target.iqn}"

    async def _device(
        self, guest: str, options: DeviceOptions, machine: MachineType, gate: Gate
    ) -> GuestDevice:
        place = parse_place(options.drive)

        def path_of(initiator: str) -> Path:
            # the nexus must be the same after a restart, and no other guest's
            identity = Identity(self.config.initiator, isid_of(f"{guest}\0{initiator}"))
            return open_path(place, identity, self._sessions, self._io)

        migrate_pr, adopt = await self._ruled(guest, options, path_of)
        decided = DeviceOptions(id=options.id, drive=options.drive, migrate_pr=migrate_pr)
        device = GuestDevice(ScsiBlock(decided, machine, gate), str(place), path_of)
        device.adopt = adopt
        # behind iSCSI the ISID is the guest's alone
        device.sole_nexus = isinstance(place, IscsiUrl)
        return device

    async def _ruled(
        self, guest: str, options: DeviceOptions, path_of: Callable[[str], Path]
    ) -> tuple[bool | None, bool | None]:
        """``migrate-pr`` and ``adopt`` of a device: the device's own option, else as the rules say."""

        def look(designator: Designator | None) -> tuple[bool | None, bool | None]:
            own = options.migrate_pr
            said = self._rules.migrate_pr((guest,), designator) if own is None else own
            return said, self._rules.adopt((guest,), designator)

        try:
            return look(None)
        except Undecided as undecided:
            path = path_of("")
            try:
                return look(await run_steps(path, identify(), self.config.limits.connect))
            except (PathError, StepFailed) as error:
                raise ConfigError(
                    f"guest {guest}: {options.drive} cannot be asked which LUN it is, and the rule for lun = "
                    f'"{undecided}" may be meant for it; write migrate-pr= on the device, or see to the LUN: '
                    f"{error}"
                ) from error
            finally:
                await path.close()

    def _doubt_all(self) -> None:
        """While no agent looked, others may have changed what guests have here, or the guests themselves."""
        for config in self.config.guest:
            for device in self.guests[config.name].devices:
                if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
                    device.block.mark_stale()

    async def _settle_in(self) -> None:
        """Find out what is behind every drive, and go on with handovers; nobody waits long for a LUN that is
        away. Guests whose handovers are open come first."""
        names = sorted(self.guests, key=lambda name: not self._moving(name))
        configured = {guest.name: self.guests[guest.name] for guest in self.config.guest if guest.devices}
        await few_at_once(
            (
                self._settle_guest_in(configured[name])
                if name in configured
                else self._settle_attached_in(name)
                for name in names
            ),
            _SETTLING_AT_ONCE,
            _SETTLING_SECONDS,
        )

    async def _settle_attached_in(self, name: str) -> None:
        await self._attachments.look_again(name)
        self.handovers.go_on(name)

    async def _settle_guest_in(self, guest: HostedGuest) -> None:
        remembered = self._remembered.pop(guest.name, _NOTHING)
        devices = tuple(guest.devices)
        known = await asyncio.gather(*(self._identify(guest.name, each, remembered) for each in devices))
        self.handovers.go_on(guest.name)
        away = [device for device, is_known in zip(devices, known, strict=True) if not is_known]
        if away:
            self._settling += [
                asyncio.ensure_future(self._wait_for(guest.name, each, remembered)) for each in away
            ]

    async def _wait_for(self, guest: str, device: GuestDevice, remembered: Remembered) -> None:
        is_known = False
        while not is_known:
            await asyncio.sleep(_LUN_AWAY_SECONDS)
            is_known = await self._identify(guest, device, remembered)

    async def _identify(self, guest: str, device: GuestDevice, remembered: Remembered) -> bool:
        """Learn the designator, and what a guest that runs here has by now: while no agent looked, others
        may have changed it, or the guest itself. False if the LUN cannot be asked now."""
        limit = self.config.limits.connect
        try:
            await device.learn_designator(limit)
            recorded = remembered.identified(device)
            if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
                await look_after_start(device, limit, recorded=recorded)
        except (PathError, StepFailed) as error:
            log.warning("the LUN cannot be asked yet", guest=guest, drive=device.name, error=str(error))
            return False
        return True

    def state(self) -> HostState:
        """What `holdover status` shows."""
        credentials, now = self._credentials, datetime.datetime.now(datetime.UTC)
        return HostState(
            host=self.config.name,
            initiator=self.config.initiator,
            version=__version__,
            guests=tuple(self.guest_state(guest) for guest in self.guests.values()),
            warnings=credentials.warnings(now) if credentials is not None else (),
            peers=tuple(PeerAddress(name=peer.name, api=peer.api) for peer in self.config.peer),
        )

    def guest_state(self, guest: HostedGuest) -> GuestState:
        """What `holdover status` shows of one guest."""
        state = guest.state()
        handover = self.handovers.state(guest.name)
        if handover is None or not handover.open:
            return state
        return msgspec.structs.replace(
            state,
            handover=handover.handover,
            handover_state=handover.state,
            handover_problem=handover.problem,
        )

    async def close(self) -> None:
        """End all exports, then let go of the LUNs; registrations stay as they are."""
        helpers = tuple(self._helpers.values())
        await asyncio.gather(*(asyncio.to_thread(server.close) for server, _ in helpers))
        for _, on_loop in helpers:
            on_loop.close()
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self.handovers.close()
        await self._attachments.close()
        await self.peers.close()
        for guest in self.guests.values():
            await guest.close()
        self._io.close()


def _by_guest(records: Iterable[DeviceRecord], guests: Container[str]) -> dict[str, Remembered]:
    of_guest: defaultdict[str, list[DeviceRecord]] = defaultdict(list)
    for record in records:
        if record.guest in guests:
            of_guest[record.guest].append(record)
    return {guest: Remembered(each) for guest, each in of_guest.items()}
