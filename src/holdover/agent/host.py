"""One host: its guests, which start and end together."""

from __future__ import annotations

import asyncio
import datetime
import resource
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath

import msgspec
import structlog

from holdover import __version__
from holdover.admission.admission import Admission
from holdover.admission.shares import shares
from holdover.agent.attach.attachment import Attachments
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.expected_guest import ExpectedDevice, ExpectedGuests
from holdover.agent.attach.helper_sockets import HelperSockets
from holdover.agent.attach.hosted_guest import LeftToQemu
from holdover.agent.attach.records import Keeper
from holdover.agent.environment import Environment
from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.guests.records import keep_records, remembered_by_guest
from holdover.agent.guests.step_runner import run_steps
from holdover.agent.handover.handovers import Handovers
from holdover.agent.hotplug.file_disks import FileDisks
from holdover.agent.hotplug.hotplug import Hotplug
from holdover.agent.hotplug.record import DiskRecord
from holdover.agent.libvirt.arbiter import Arbiter
from holdover.agent.libvirt.service import LibvirtService
from holdover.agent.libvirt.tracked_guests import ListingJournal, TrackedGuests
from holdover.agent.migration.migrations import Migrations
from holdover.agent.placement.placement import Placement
from holdover.agent.settling import NOTHING_REMEMBERED, Settling
from holdover.api.documents import ExportSecret, GuestState, HostState, PeerAddress
from holdover.api.peer_hosts import Peers
from holdover.api.version import API_VERSION
from holdover.config.agent_file import (
    AgentConfig,
    ConfigError,
    GuestConfig,
    HostPort,
    export_iqn,
    parse_guest,
)
from holdover.config.rules import Rules, Undecided
from holdover.config.secrets import locator_of
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions, parse_device
from holdover.guest.scsi_block import ScsiBlock
from holdover.helper.clients import Clients
from holdover.helper.listener import ListenerError
from holdover.history.history import History
from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.target import IscsiTarget
from holdover.iscsi.url import IscsiUrl
from holdover.journal.journal import JournalLike
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import JournalContents
from holdover.metrics.measurements import Measurements
from holdover.paths.host_disks import HostDisks
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.paths.locator import open_path
from holdover.paths.sgio import SgIo
from holdover.pki.tls import Credentials
from holdover.reservations.questions import identify
from holdover.reservations.steps import StepFailed
from holdover.scsi.inquiry import Designator
from holdover.scsi.path import Path, PathError

log = structlog.get_logger()

_START_SECONDS = 1.0
"""How long an agent that starts waits for LUNs before its API answers; LUNs may answer later."""


class Host:
    """The guests of one host and the sessions to their LUNs."""

    def __init__(
        self,
        config: AgentConfig,
        credentials: Credentials | None = None,
        journal: JournalLike | None = None,
        open_disks: OpenDisks | None = None,
        environment: Environment | None = None,
        history: History | None = None,
    ) -> None:
        """Make the host; `start` opens its sockets.

        ``credentials`` has this host's certificate, and what verifies other hosts. ``journal`` has the state
        to continue from; with None the host keeps its state in memory alone. ``open_disks`` finds which disks
        QEMU processes have open, and the host owns it from now on; with None the host starts one when it
        needs one. ``environment`` has the clocks, the paths and the connections; with None the real ones.
        """
        environment = environment or Environment()
        self._open_listener = environment.open_listener
        self.config = config
        tracked = None if config.libvirt is None else TrackedGuests(config)
        self.journal: JournalLike = MemoryJournal() if journal is None else journal
        if tracked is not None:
            self.journal = ListingJournal(self.journal, tracked)
        self._records = self.journal.load()
        self._remembered = remembered_by_guest(self._records.devices, {guest.name for guest in config.guest})
        self.peers = Peers(config.name, config.peer, credentials, environment.connect)
        self.credentials = credentials
        self.measurements = Measurements()
        self.history = history or History(None, 1, 1)
        self.export_memory = ByteBudget(config.exports.max_memory << 20)
        self.chap_secrets = ChapSecrets(FilePath(config.state_dir))
        self.guests: dict[str, HostedGuest] = {}
        limits = shares(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        self.admission = Admission(limits.connections)
        self._sessions = IscsiSessions(config.limits.connect)
        self._io = SgIo()
        self._open_path = environment.open_path or partial(open_path, sessions=self._sessions, io=self._io)
        self._disks = HostDisks(self._io)
        self._rules = Rules(config.rule)
        self._open_disks = OpenDisks() if open_disks is None else open_disks
        self._maker = DeviceMaker(
            self._rules,
            self._disks,
            self._io,
            Keeper(self.journal),
            config.limits.step,
            self._in_handover,
            self._open_disks,
            self.measurements,
            self.history,
        )
        self._attachments = Attachments(
            config, self.guests, self._hosted, self._maker, self._in_handover, self._admit
        )
        self.helpers = HelperSockets(
            config,
            self._attachments,
            self._maker,
            self._disks,
            Clients(limits.helper_clients),
            self.measurements.helper_commands,
        )
        self._arrivals = ExpectedGuests(self._attachments, self._maker, self.helpers.connected)
        self.handovers = Handovers(
            config,
            self.guests,
            self.peers,
            self.journal,
            self.expect,
            environment,
            self.measurements,
            self.history,
            self._refusal_of_host,
        )
        self.migrations = Migrations(
            config,
            self.guests,
            self.peers,
            self.journal,
            self.handovers,
            self._attachments.get,
            self.measurements,
        )
        self.placement = Placement(
            config,
            self.guests,
            self.peers,
            self.journal,
            self.handovers,
            self.migrations,
            self._attachments,
            environment,
        )
        self.hotplug = Hotplug(
            lambda: self.config,
            self.guests,
            self._attachments.get,
            self.placement.moves,
            DiskRecord(FilePath(config.state_dir)),
            self.journal,
            self._device,
            self.handovers.lock,
        )
        self._file_disks = FileDisks(lambda: self.config, self.hotplug)
        arbiter = Arbiter(
            config,
            self.guests,
            self.peers,
            self.handovers,
            self._attachments.get,
            self.placement.open_here,
            self._open_disks,
            self._attachments.names,
        )
        self.libvirt = LibvirtService(config, arbiter, tracked)
        self._settling: list[asyncio.Task[None]] = []
        self._settle = Settling(
            self.guests,
            self._remembered,
            self.handovers,
            self.migrations,
            self._attachments,
            lambda: self.config,
            self._settling,
        )

    async def start(self) -> None:
        """Export every guest, and open the helper's sockets.

        Raises:
            OSError: An export cannot listen at its address; what was started is ended again.
            ListenerError: A helper's socket cannot be opened; what was started is ended again.
            ConfigError: A rule needs the LUN of a device that cannot be reached; what was started is ended
                again.
        """
        try:
            for guest in self.config.guest:
                await self._make_guest(guest)
            self._attachments.restore(self._records.guests, self._records.devices)
            self._arrivals.restore(self._records.devices)
            # This happens before any command of a guest passes.
            self.handovers.restore(self.migrations.restore(self._records.handovers))
            self._doubt_all()
            await self.placement.hosts.start()
            await self.placement.shut_if_declared_dead()
            if not (waits := self.placement.hosts.waits):
                await self._open()
            await self.libvirt.start()
            self._records = JournalContents((), (), ())
            self._settling.append(asyncio.ensure_future(self._settle.all_guests()))
            if waits:
                self._settling.append(asyncio.ensure_future(self._open_when_known()))
            self._file_disks.follow()  # the file may have been read again meanwhile
            await asyncio.wait(self._settling, timeout=_START_SECONDS)
        except BaseException:
            await self.close()
            raise

    async def _open(self) -> None:
        for guest in self.config.guest:
            await self._export(guest)
        self.helpers.start()

    @property
    def is_open(self) -> bool:
        """Whether the exports and the sockets are open. They wait for hosts that may have declared this one
        dead."""
        return not self.placement.hosts.waits

    async def _open_when_known(self) -> None:
        await self.placement.hosts.all_asked()
        try:
            await self._open()
        except (OSError, ListenerError) as error:
            log.error("The exports and sockets cannot be opened; restart the agent.", reason=str(error))

    @property
    def has_started(self) -> bool:
        """Whether the LUNs of all guests that were known at the start have been asked once."""
        return bool(self._settling) and self._settling[0].done()

    async def expect(self, name: str, machine_type: str, devices: Sequence[ExpectedDevice]) -> HostedGuest:
        """The guest of that name: the one that is here, or a new one that is going to arrive with these
        devices.

        Raises:
            ExpectError: This host does not have one of the LUNs, or the guest cannot be handed over to it.
        """
        return await self._arrivals.expect(name, machine_type, devices)

    async def _admit(self, name: str, run: Callable[[], Awaitable[None]]) -> str:
        return await self.placement.admit(name, run)

    def _in_handover(self, name: str) -> bool:
        return self.handovers.is_in_handover(name)

    def _hosted(
        self,
        name: str,
        machine_type: MachineType,
        devices: list[GuestDevice],
        target: IscsiTarget | None = None,
        *,
        left_to_qemu: bool = False,
    ) -> HostedGuest:
        kind = LeftToQemu if left_to_qemu else HostedGuest
        return kind(name, self.config.name, machine_type, devices, target, self.config.limits)

    async def _make_guest(self, config: GuestConfig) -> None:
        machine_type, _, address = parse_guest(config, "configuration")
        gate = Gate.INCOMING if config.incoming else Gate.RUNNING
        devices = []
        for number, text in (await self.hotplug.begin(config)).items():
            device = await self._device(config.name, parse_device(text), machine_type, gate)
            device.number = number
            devices.append(device)
        remembered = self._remembered.get(config.name, NOTHING_REMEMBERED)
        for device in devices:
            remembered.restore(device)
            keep_records(config.name, device, self.journal)
        target = None if address is None else self._target(config, devices)
        guest = self._hosted(config.name, machine_type, devices, target)
        for warning in guest.warnings:
            log.warning("The agent warns its operator.", guest=config.name, reason=warning)
        self.guests[config.name] = guest
        self._attachments.take_up(guest, machine_type, gate)

    def _target(self, guest: GuestConfig, devices: list[GuestDevice]) -> IscsiTarget:
        exports = self.config.exports
        if guest.export_open:
            log.warning(
                "The export of a guest asks for no secret (export-open): every process may use its disks.",
                guest=guest.name,
                export=guest.export,
            )
        return IscsiTarget(
            export_iqn(guest.name),
            {device.number: device for device in devices if device.number is not None},
            credentials=self.credentials_of(guest.name),
            chap_md5=exports.chap_md5,
            allow=guest.allow_list,
            max_sessions=exports.max_sessions,
            sessions_option="max-sessions in [exports]",
            budget=ByteBudget(exports.max_memory_per_guest << 20, self.export_memory),
            admission=self.admission,
            on_session=lambda change: self.placement.session_changed(guest.name, change),
        )

    def credentials_of(self, guest: str) -> ChapCredentials | None:
        """The CHAP credentials for a guest's export; None if it needs none, or if the guest has no export.

        Raises:
            ConfigError: The secret can be neither read nor made.
        """
        config = next((each for each in self.config.guest if each.name == guest), None)
        if config is None or config.export is None or config.export_open:
            return None
        return ChapCredentials(guest, self.chap_secrets.secret(guest))

    async def _export(self, config: GuestConfig) -> None:
        guest = self.guests[config.name]
        if guest.target is None or (address := parse_guest(config, "configuration")[2]) is None:
            return
        port = await guest.target.start(address.host, address.port, self._open_listener)
        guest.export = f"iscsi://{HostPort(address.host, port)}/{guest.target.iqn}"

    async def _device(
        self, guest: str, options: DeviceOptions, machine_type: MachineType, gate: Gate
    ) -> GuestDevice:
        locator = locator_of(options)

        def path_of(initiator: str) -> Path:
            # The nexus must be the same after a restart, and must not be another guest's.
            identity = InitiatorIdentity(self.config.initiator, isid_of(f"{guest}\0{initiator}"), guest)
            return self._open_path(locator, identity)

        # From here on nothing needs the secret that the drive's address may contain.
        public = replace(options, drive=str(locator), secret_file=None)
        migrate_pr, adopt = await self._ruled(guest, public, path_of)
        decided = replace(public, migrate_pr=migrate_pr)
        device = GuestDevice(
            ScsiBlock(decided, machine_type, gate),
            str(locator),
            path_of,
            self.measurements,
            guest,
            self.history,
        )
        device.adopt = adopt
        # An iSCSI session's ISID belongs to this guest alone.
        device.sole_nexus = isinstance(locator, IscsiUrl)
        return device

    async def _ruled(
        self, guest: str, options: DeviceOptions, path_of: Callable[[str], Path]
    ) -> tuple[bool | None, bool | None]:
        """``migrate-pr`` and ``adopt`` of a device: its own option, or else what the rules say."""

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
                    f'"{undecided}" may be meant for it; write migrate-pr= on the device, or repair the path '
                    f"to the LUN: {error}"
                ) from error
            finally:
                await path.close()

    def _doubt_all(self) -> None:
        """Mark running guests' devices stale: while no agent ran, guests or others may have changed them."""
        for config in self.config.guest:
            for device in self.guests[config.name].devices:
                if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
                    device.block.mark_stale()

    def _refusal_of_host(self, host: str) -> str:
        return self.placement.hosts.refusal_of(host)

    def reconfigure(self, config: AgentConfig) -> None:
        """Use another configuration, which differs only in what can change while the agent runs."""
        self.config = config
        self._settling += self.peers.reconfigure(config.peer)
        self._rules.reconfigure(config.rule)
        self._sessions.timeout = config.limits.connect
        self._maker.limit = config.limits.step
        for guest in self.guests.values():
            guest.limits = config.limits
        self._attachments.reconfigure(config)
        self.handovers.reconfigure(config)
        self.migrations.reconfigure(config)
        self.placement.reconfigure(config)
        self.libvirt.reconfigure(config)
        self._file_disks.follow()

    def state(self) -> HostState:
        """The document that `holdover status` shows."""
        return HostState(
            host=self.config.name,
            initiator=self.config.initiator,
            version=__version__,
            api=API_VERSION,
            guests=tuple(self.guest_state(guest) for guest in self.guests.values()),
            warnings=self._warnings(),
            peers=tuple(PeerAddress(name=peer.name, api=peer.api) for peer in self.config.peer),
        )

    def _warnings(self) -> tuple[str, ...]:
        found = list(self._open_exports())
        if self.credentials is not None:
            found += self.credentials.warnings(datetime.datetime.now(datetime.UTC))
        if self.journal.failed is not None:
            found.append(
                f"{self.journal.failed}. Its last record was not written: until one is, guests' changes of "
                "their reservations are refused, and handovers wait"
            )
        found += (*self.placement.warnings, *self.migrations.warnings, *self._sessions.warnings)
        found += (each for g in self.guests.values() for each in g.warnings)
        return (*found, *self._attachments.warnings)

    def export_secret(self, guest: HostedGuest) -> ExportSecret | None:
        """What a guest's QEMU needs to log in; None for a guest without an export."""
        return guest.export_secret(self.credentials_of(guest.name), self.chap_secrets.file(guest.name))

    def _open_exports(self) -> Iterator[str]:
        for guest in self.config.guest:
            if guest.export_open:
                yield (
                    f"guest {guest.name}: export-open: every process of this host can read and write its "
                    f"disks at {self.guests[guest.name].export}"
                )

    def guest_state(self, guest: HostedGuest) -> GuestState:
        """The document that `holdover status` shows of one guest."""
        state = guest.state()
        handover = self.handovers.state(guest.name)
        if handover is None or not handover.open:
            return state
        return msgspec.structs.replace(
            state,
            handover_id=handover.handover_id,
            handover_state=handover.state,
            handover_problem=handover.problem,
        )

    async def close(self) -> None:
        """End all exports, then close the paths to the LUNs; registrations stay as they are."""
        await self.helpers.close()
        await self._file_disks.close()
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)
        await self.libvirt.close()
        await self.placement.close()
        await self.migrations.close()
        await self.handovers.close()
        await self._attachments.close()
        await self.peers.close()
        for guest in self.guests.values():
            await guest.close()
        self._io.close()
        await self._open_disks.close()
