"""The machines of a simulation: a production agent each, which may die and come back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from random import Random

import msgspec

from holdover.agent.environment import Environment
from holdover.agent.guests.device import GuestDevice
from holdover.agent.handover.recovery import RecoveryError
from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig, ConfigError, GuestConfig, Limits, PeerConfig
from holdover.guest.gate import Gate
from holdover.paths.iscsi import InitiatorIdentity
from holdover.paths.locator import LunLocator
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, Path, PathError
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.status import Status
from tests.simulation.chap import Secrets
from tests.simulation.clockwork import Clockwork, Process, until
from tests.simulation.disk import Disk
from tests.simulation.exports import NAMES, SESSIONS, Listener, Sessions
from tests.simulation.features import NO_SURPRISES, Odd, Surprises
from tests.simulation.multipath import HostPaths, MultipathDisk, PathObserver
from tests.simulation.network import Network, Peer
from tests.simulation.placements import Placement, initiator_of, nexuses_of
from tests.simulation.rates import NONE
from tests.simulation.san import Lun, LunPath, PortPath, Sender
from tests.simulation.transcript import Transcript

LIMITS = Limits(connect=3, step=5, drain=4, peer=5, give_up=4, recheck=2, handover=120)

_BY_MISTAKE = 0.3
"""How likely an agent of an older version, or with another file, is started."""

_STARVED = 0.02
"""How likely a starved agent has no memory for the time of a record."""

_SLOW = 0.3
"""How likely a thread of the helper is slow, where any is."""

_CROWD = 40
"""More guests than an agent that starts asks about at once."""

_GOOD = Response(Status.GOOD)
_PORTAL = "127.0.0.1:3260"


@dataclass(eq=False)
class Machine:
    """One machine.

    Attributes:
        host: The agent, when it has started.
        process: The agent's process; None: it has none.
        powered: Whether the machine has power.
        issued: The commands of guests that are under way.
        observer: Is told what goes wrong with the paths of disks.
        folder: The agent's state folder; None: the agents export nothing.
        multipaths: The disks that have several paths, by their place.
        mended: Whether its agent's file has been put right.
        dead: It has been declared dead and is not to come back until somebody has taken its guests.
    """

    name: str
    clockwork: Clockwork
    network: Network
    random: Random
    log: Transcript
    guests: dict[str, tuple[str, list[Placement]]]
    names: list[str]
    numbers: Callable[[], int]
    early_commit: bool
    issued: dict[int, Command]
    observer: PathObserver
    folder: FilePath | None = None
    surprises: Surprises = NO_SURPRISES
    disk: Disk = field(init=False)
    host: Host | None = None
    process: Process | None = None
    powered: bool = True
    dead: bool = False
    mended: bool = False
    paths: list[LunPath] = field(default_factory=list)
    sessions: dict[str, Sessions] = field(default_factory=dict)
    multipaths: dict[str, HostPaths] = field(default_factory=dict)
    _commands: dict[asyncio.Future[Response], Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.disk = Disk(self.name, self.random, self.log)
        self.disk.short_of_memory = self.surprises.memory
        self.config = self._config()
        self.secrets = Secrets(self.name, self.folder, self.random)
        self.multipaths = self._multipaths()

    def _config(self) -> AgentConfig:
        guests = tuple(
            GuestConfig(
                name=name,
                machine_type="pc-q35-11.0",
                devices=tuple(self._devices(placements)),
                incoming=home != self.name and self.odd is not Odd.RUNS,
                export=None if self.folder is None else _PORTAL,
            )
            for name, (home, placements) in self.guests.items()
            if self.odd is not Odd.NO_GUEST
        )
        if self.surprises.crowd:
            guests += tuple(
                GuestConfig(name=f"idle{number}", machine_type="pc-q35-11.0", incoming=True)
                for number in range(_CROWD)
            )
        if self.surprises.neighbour:
            shared = next((each for _, (_, each) in self.guests.items() if each[0].disk), [])
            guests += tuple(
                GuestConfig(
                    name="neighbour",
                    # of which no agent knows whether its reservations move
                    machine_type="pc-q35-11.0" if self.name == self.names[0] else "of-a-vendor",
                    devices=(f"scsi-block,drive={each.drive}",),
                )
                for each in shared[:1]
            )
        peers = tuple(
            PeerConfig(name=name, api=f"10.0.0.{number}:7443")
            for number, name in enumerate(self.names, 1)
            if name != self.name and (self.odd is not Odd.NO_PEER or self.mended)
        )
        config = AgentConfig(
            name=self.name,
            initiator=initiator_of(self.names[1] if self.odd is Odd.COPY else self.name),
            peer=peers,
            guest=guests,
            limits=LIMITS,
            early_commit=self.early_commit,
        )
        if self.folder is None:
            return config
        return msgspec.structs.replace(config, state_dir=str(self.folder))

    def _devices(self, placements: list[Placement]) -> Iterator[str]:
        """The devices of a guest, as this host has them."""
        odd = self.odd
        for number, each in enumerate(placements):
            if odd is Odd.NO_LUN and number == len(placements) - 1 > 0:
                continue
            moved = each.moved is not (odd is Odd.OTHER_SETTING)
            yield f"scsi-block,drive={each.drive},migrate-pr={'on' if moved else 'off'}"
        if odd is Odd.LUN_TWICE:
            yield f"scsi-block,drive={placements[0].again},migrate-pr=on"

    @property
    def odd(self) -> Odd:
        """What is wrong with this host."""
        return self.surprises.odd if self.name == self.names[-1] else Odd.NOTHING

    # -- the agent ----------------------------------------------------------------------------------

    def start(self) -> asyncio.Task[None]:
        """Start the agent; the returned task of its process ends when the agent answers."""
        self.log.line(self.name, "the agent starts")
        self.secrets.spoil()
        self.process = self.clockwork.process(self.name)
        return self.process.create_task(self._run(self.process))

    def mend_file(self) -> None:
        """The administrator mends what a running agent can read again: the names of the other hosts."""
        if self.odd is not Odd.NO_PEER:
            return
        self.mended = True
        self.config = self._config()
        if self.host is not None and self.process is not None:
            self.process.call_soon(self.host.reconfigure, self.config)

    async def start_with_another_file(self, without: str) -> None:
        """Start the agent with a file that lacks a guest by mistake, then again with the right one."""
        self.log.line(self.name, f"{without} is not in the agent's file")
        right = self.config
        rest = tuple(each for each in right.guest if each.name != without)
        self.config = msgspec.structs.replace(right, guest=rest)
        try:
            self.start()
            await until(lambda: self.host is not None or self.process is None)
            await asyncio.sleep(self.random.random() * 3)
            await self.stop()
        finally:
            self.config = right
            if self.process is not None:  # nothing goes wrong any more
                self.crash()

    async def _run(self, process: Process) -> None:
        environment = Environment(
            clock=lambda: self._clock(process),
            stopwatch=process.time,
            spare_key=lambda: self.random.getrandbits(63) + 1,
            open_path=lambda place, identity: self._path(process, place, identity),
            connect=lambda peer: Peer(self.network, process, self.name, peer.name, peer.api),
            open_listener=Listener,  # type: ignore[arg-type]  # nobody connects to it
            boot=str,  # a file in a thread would not be deterministic
        )
        is_old = self.surprises.journals and self.random.random() < _BY_MISTAKE
        self.disk.reader_is_old = is_old and self.disk.rates is not NONE
        while True:
            host = Host(self.config, None, self.disk.open(process), environment=environment)
            try:
                await host.start()
                break
            except ConfigError:
                self.log.line(self.name, "the agent does not start: a secret is none, or others know it")
                await asyncio.sleep(1)
                self.secrets.mend()
            except RecoveryError:
                self.log.line(self.name, "the agent does not start: it cannot read a record of a newer one")
                await asyncio.sleep(1)
                self.disk.reader_is_old = False
            except MemoryError:
                self.log.line(self.name, "the agent does not start: it has no memory")
                await asyncio.sleep(1)
        if process.dead:
            return
        self.secrets.require_kept(host)
        self.sessions = {name: Sessions(process, guest.devices) for name, guest in host.guests.items()}
        self.host = host

    def _clock(self, process: Process) -> float:
        """The time; a starved agent sometimes has no memory when it puts the time into a record."""
        is_starved = self.surprises.starved and self.disk.rates is not NONE
        if is_starved and self.random.random() < _STARVED:
            raise MemoryError
        return process.now()

    def _path(self, process: Process, place: LunLocator, identity: InitiatorIdentity) -> Path:
        for guest, (_, placements) in self.guests.items():
            for placement in placements:
                nexuses = self._nexuses(place, identity, guest, placement)
                if not nexuses:
                    continue
                kind = LunPath if placement.disk else PortPath
                sender = Sender(self.name, guest if placement.moved else "")
                if placement.disk and not placement.layout.several:
                    return self._disk_of_host(process, placement.lun, sender, nexuses[0], str(place))
                again = (
                    sum(each.lun is placement.lun for each in self.paths) if self.surprises.neighbour else 0
                )
                paths = [
                    kind(placement.lun, process, sender, nexus, str(place), self.numbers, number + again)
                    for number, nexus in enumerate(nexuses)
                ]
                for path in paths:
                    path.in_order = self.folder is not None
                self.paths.extend(paths)
                if not placement.layout.several:
                    return paths[0]
                disk = self.multipaths[placement.drive]
                disk.opened.extend(paths)
                return MultipathDisk(disk, paths, str(place), self.issued)
        raise PathError(str(place), "no such LUN")

    def _disk_of_host(self, process: Process, lun: Lun, sender: Sender, nexus: ITNexus, name: str) -> LunPath:
        """A disk of the kernel: whoever opens it uses the kernel's one session."""
        for each in self.paths:
            if (each.process, each.lun, each.nexus, each.name) == (process, lun, nexus, name):
                return each
        path = LunPath(lun, process, sender, nexus, name, self.numbers)
        path.in_order = self.folder is not None
        self.paths.append(path)
        return path

    def _nexuses(
        self, place: LunLocator, identity: InitiatorIdentity, guest: str, placement: Placement
    ) -> tuple[ITNexus, ...]:
        """The nexuses by which this is the way to a guest's LUN; none if it is not."""
        if str(place) not in (placement.drive, placement.again):
            return ()
        port = IscsiTransportID(identity.initiator, identity.isid)
        for initiator in ("", *NAMES):
            nexuses = nexuses_of(self.name, guest, placement, initiator)
            if not placement.disk and nexuses[0].initiator != port:
                continue
            if str(place) == placement.again:
                return tuple(msgspec.structs.replace(each, target_port=2) for each in nexuses)
            return nexuses
        return ()

    def _multipaths(self) -> dict[str, HostPaths]:
        found = {}
        for guest, (_, placements) in self.guests.items():
            for each in placements:
                if each.layout.several:
                    nexuses = nexuses_of(self.name, guest, each)
                    sender = Sender(self.name, guest)
                    disk = HostPaths(each.lun, sender, nexuses, self.observer)
                    if each.layout.known:
                        for nexus in nexuses:
                            disk.ports.add(str(nexus.initiator), nexus.initiator)
                    found[each.drive] = disk
        return found

    def crash(self) -> None:
        """The agent dies."""
        process, self.process, self.host = self.process, None, None
        if process is None:
            return
        self.log.line(self.name, "THE AGENT DIES")
        self._end(process)

    async def stop(self) -> None:
        """End the agent in order."""
        process, host = self.process, self.host
        if process is None or host is None:
            return
        self.log.line(self.name, "the agent is told to end")
        self.host = None

        async def close() -> None:
            await host.close()
            await self.disk.close()

        closing = process.create_task(close())
        try:
            await until(lambda: closing.done() or process.dead)
            if closing.done():
                closing.result()
        finally:
            if not process.dead:
                self.process = None
                self._end(process)

    async def restart(self) -> None:
        """End the agent and start it again, as the runbook has it where a handover has stopped."""
        await self.stop()
        if self.process is None and not self.dead:
            self.start()

    def _end(self, process: Process) -> None:
        process.kill()
        self.disk.crash()
        for path in self.paths:
            path.die()
        self.paths.clear()
        self.sessions = {}
        for disk in self.multipaths.values():
            disk.agent_has_died()
        self.network.died(process)
        for done, caller in self._commands.items():
            caller.call_soon(_lose, done)
        self._commands.clear()

    # -- a guest's commands -------------------------------------------------------------------------

    async def execute(
        self,
        caller: Process,
        guest: str,
        lun: int,
        command: Command,
        session: int = 0,
        abort_after: float | None = None,
    ) -> Response:
        """Have the agent carry out a command of a guest's QEMU that runs here.

        ``session``: by which session of the guest's export, if it has one, and ``abort_after``: after how
        many seconds that aborts it.

        Raises:
            ConnectionError: The agent is not there, has died meanwhile, or has aborted the command.
        """

        async def work(done: asyncio.Future[Response], device: GuestDevice, sessions: Sessions) -> None:
            def answer(response: Response | None) -> None:
                self._commands.pop(done, None)
                caller.call_soon(_answer, done, response)

            if self.folder is None:
                response = None
                if self._reads_inline(guest, lun, command):
                    response = await self._read_inline(device, self.guests[guest][1][lun].lun, command)
                answer(response or await device.execute(SESSIONS[0], command))
                return
            tag = await sessions.start(session, lun, command, answer)
            if abort_after is not None:
                await asyncio.sleep(abort_after)
                await sessions.abort(tag)

        return await self._do(caller, guest, lun, work)

    async def manage(self, caller: Process, guest: str, what: Callable[[Sessions], Awaitable[None]]) -> None:
        """Have the agent do something to the sessions of a guest's export.

        Raises:
            ConnectionError: The agent is not there, or has died meanwhile.
        """

        async def work(done: asyncio.Future[Response], _: GuestDevice, sessions: Sessions) -> None:
            await what(sessions)
            self._commands.pop(done, None)
            caller.call_soon(_answer, done, _GOOD)

        await self._do(caller, guest, 0, work)

    def _reads_inline(self, guest: str, lun: int, command: Command) -> bool:
        placement = self.guests[guest][1][lun]
        by_helper = placement.disk and not placement.layout.several and self.surprises.inline
        return by_helper and command.opcode == OperationCode.PERSISTENT_RESERVE_IN

    async def _read_inline(self, device: GuestDevice, lun: Lun, command: Command) -> Response | None:
        """Carry out a PERSISTENT RESERVE IN as a thread of the helper does (`agent/guests/inline_read.py`).

        None: the loop must carry it out.
        """
        path = next(each for each in self.paths if each.lun is lun)
        block, reads = device.block, device.inline_reads
        reads.enter()
        try:
            if self.surprises.slow_threads and self.random.random() < _SLOW:
                await asyncio.sleep(self.random.random())
            if block.gate is not Gate.RUNNING or block.has_pending_attention:
                return None
            sent = block.sent
            try:
                response = await path.execute(command)
            except AnswerLost as error:
                return device.unanswered(command, error)
            except PathError:
                return None
            if response.good and block.added is not None:
                return None
            answer = block.observe_unchanged(command, response)
            if answer is None:
                answer = await device.observe_reservation_in(command, response, sent)
            return answer
        finally:
            reads.leave()

    async def _do(
        self,
        caller: Process,
        guest: str,
        lun: int,
        work: Callable[[asyncio.Future[Response], GuestDevice, Sessions], Coroutine[object, object, None]],
    ) -> Response:
        device = self.device(guest, lun)
        if device is None or self.process is None:
            raise ConnectionError("the agent is not there")
        done: asyncio.Future[Response] = caller.create_future()
        self._commands[done] = caller
        self.process.create_task(work(done, device, self.sessions[guest]))
        return await done

    def device(self, guest: str, lun: int) -> GuestDevice | None:
        """A device of a guest; None while there is no agent."""
        hosted = None if self.host is None else self.host.guests.get(guest)
        return None if hosted is None or lun >= len(hosted.devices) else hosted.devices[lun]


def _answer(done: asyncio.Future[Response], response: Response | None) -> None:
    if done.done():
        return
    if response is None:
        done.set_exception(ConnectionError("the command was aborted"))
    else:
        done.set_result(response)


def _lose(done: asyncio.Future[Response]) -> None:
    if not done.done():
        done.set_exception(ConnectionError("the agent has died"))
