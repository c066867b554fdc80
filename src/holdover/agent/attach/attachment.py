"""Guests that come through the helper's socket: which guest a process is, and guests that no file names.

A guest is known by its name or UUID, which its process says; `guest.identity_policy` decides how far to trust
that. The agent watches the process at the other end of a connection until it ends. Until then no other
process can be this guest, unless it has better proof. A process without proof changes nothing before it has
shown one of the guest's disks. If the guest holds something when its process ends, the agent remembers that,
and the next process of that name or UUID continues with it.

A QEMU that waits for a migration becomes a guest that is going to arrive. If it runs although no host has
announced it, somebody else migrated it or this agent forgot it. After a while this host claims it, as it
claims a guest that a QEMU without -incoming starts here (`holdover.agent.attach.starting`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog

from holdover.agent.attach.attached_guest import Attached, Refused
from holdover.agent.attach.claims import ProcessClaims
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.attach.hosted_guest import MakeGuest
from holdover.agent.attach.processes.libvirt_names import LibvirtNames
from holdover.agent.attach.processes.process import Process
from holdover.agent.attach.processes.process_identity import (
    DEFAULT_MACHINE_TYPE,
    NAME_LENGTH,
    QemuIdentity,
    cgroup_of,
    known_machine_type,
)
from holdover.agent.attach.qmp import what_it_says
from holdover.agent.attach.records import CONFIGURED, EXPECTED, process_of
from holdover.agent.attach.starting import Admit, StartingGuests
from holdover.agent.guests.guest import HostedGuest
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.guest.identity_policy import ProcessClaim, ProcessIdentity, Trust, cgroup_unit, may_replace
from holdover.guest.machine_type import MachineType
from holdover.helper.connection import Peer
from holdover.journal.records import DeviceRecord, GuestRecord
from holdover.placement.appearance import Appearance, appear
from holdover.scsi.inquiry import Designator

log = structlog.get_logger()

_REMEMBERED_SECONDS = 600.0
"""The seconds for which to remember a guest without a process that is going to arrive, or has gone
elsewhere.
"""

_ASK_AGAIN_SECONDS = 60.0
"""The seconds after which a guest whose process cannot be seen may be another QEMU."""


class Attachments:
    """The guests of the helper's sockets; keeps ``guests``, which the rest of the agent uses, up to date."""

    def __init__(
        self,
        config: AgentConfig,
        guests: dict[str, HostedGuest],
        make: MakeGuest,
        maker: DeviceMaker,
        in_handover: Callable[[str], bool],
        admit: Admit,
    ) -> None:
        """``in_handover`` returns whether a guest is being handed over; ``admit`` claims a guest."""
        self._in_handover = in_handover
        self._config = config
        self._guests = guests
        self._make = make
        self._maker = maker
        self._attached: dict[str, Attached] = {}
        self._by_process: dict[int, Attached] = {}
        self.names = LibvirtNames()
        self.claims = ProcessClaims(config, maker.rules, self._attached)
        self._starting = StartingGuests(config.name, maker, in_handover, admit)
        self._attaching: dict[tuple[int, str | None, bool], asyncio.Task[Attached]] = {}
        self._asked: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[Attached, asyncio.TimerHandle] = {}
        """The timers that end the time for which guests are remembered."""

    def reconfigure(self, config: AgentConfig) -> None:
        """Use ``config`` from now on."""
        self._config = config

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator must know of processes that claim to be guests, and of guests that do not run."""
        return (*self._starting.warnings, *self.claims.warnings)

    # -- who it is --------------------------------------------------------------------------------

    def take_up(self, guest: HostedGuest, machine_type: MachineType, gate: Gate) -> None:
        """Add a guest of the agent's file."""
        fixed = guest if guest.devices else None
        expected = gate is Gate.INCOMING
        self._attached[guest.name] = Attached(
            guest, machine_type, gate, listed=True, expected=expected, home=fixed
        )

    def restore(self, guests: Iterable[GuestRecord], devices: Iterable[DeviceRecord]) -> None:
        """Add the guests that are on record, and the devices of all guests whose devices no file gives."""
        for guest in guests:
            listed = self._attached.get(guest.name)
            if listed is not None:
                listed.recorded = process_of(guest)
                continue
            if guest.origin == CONFIGURED:
                continue  # the file names it no more
            attached = self.add(guest.name, guest.machine_type, Gate.INCOMING)
            attached.uuid = guest.uuid
            attached.recorded = process_of(guest)
            attached.expected = guest.origin == EXPECTED
            self.remember_for_a_while(attached)
        for device in devices:
            known = self._attached.get(device.guest)
            if known is not None and not known.fixed:
                self._maker.restore(known, device)

    async def look_again(self, name: str) -> None:
        """After `restore`: read what a guest has now."""
        attached = self._attached.get(name)
        if attached is not None and not attached.fixed:
            await self._maker.look_again(attached)

    def get(self, name: str) -> Attached | None:
        """The guest of that name, if it is one that comes through the helper's socket."""
        return self._attached.get(name)

    def welcome(self, peer: Peer, own: str | None) -> None:
        """Handle a new connection: QEMU connects when it starts, long before it sends the first command."""
        if peer.pid and not self.is_attached(peer.pid):
            self._spawn(self._try_to_attach(peer, own))

    async def _try_to_attach(self, peer: Peer, own: str | None) -> None:
        try:
            await self.guest_of(peer, own)
        except Refused as error:
            self.claims.refusals.tell("A client of the helper is no guest.", peer, str(error))

    def is_attached(self, pid: int) -> bool:
        """Whether a process is known to be a guest."""
        return pid in self._by_process

    def process_of(self, peer: Peer) -> Process | None:
        """The process that a connection belongs to, if the loop watches it. Any thread may call this."""
        attached = self._by_process.get(peer.pid)
        process = None if attached is None else attached.process
        if process is None or not peer.is_process(process.started) or peer.since > process.seen:
            return None
        return process

    async def guest_of(self, peer: Peer, own: str | None = None, lun: Designator | None = None) -> Attached:
        """The guest that sends commands through a connection.

        ``own`` is the guest whose socket the connection came by; None for the socket of all guests. ``lun``
        is the LUN of a disk that the process has shown and may write to; None if it has shown none.

        Raises:
            Refused: The process is not a guest, or another process is this guest.
        """
        attached = self._known(peer, own)
        if attached is None:
            key = (peer.pid, own, lun is not None)
            task = self._attaching.get(key)
            if task is None:
                task = self._attaching[key] = asyncio.ensure_future(self._attach(peer, own, lun))
                task.add_done_callback(lambda _: self._attaching.pop(key, None))
            attached = await asyncio.shield(task)
        if lun is not None:
            await self._show(attached, lun)
        return attached

    def _known(self, peer: Peer, own: str | None) -> Attached | None:
        if peer.pid:
            attached = self._by_process.get(peer.pid)
            process = None if attached is None else self._running(attached)
            if attached is None or process is None or not peer.is_process(process.started):
                return None
            return attached if own in (None, attached.guest.name) else None
        if own is None or time.monotonic() - self._asked.get(own, 0.0) > _ASK_AGAIN_SECONDS:
            return None
        return self._attached[own]

    def has_shown(self, peer: Peer, own: str | None) -> bool:
        """Whether a connection's process is known to be a guest, and has shown one of the guest's disks."""
        attached = self._known(peer, own)
        return attached is not None and attached.process is not None and attached.process.claim.shown

    async def _attach(self, peer: Peer, own: str | None, lun: Designator | None) -> Attached:
        # Watch the process before reading about it, so that what is read is about the watched process.
        process = self._watch(peer.pid) if peer.pid else None
        try:
            if process is not None and not peer.is_process(process.started):
                raise Refused(f"process {peer.pid} has ended, and another process has its number now")
            said = self.names.corrected(process, await what_it_says(self._config, peer, own))
            cgroup = await asyncio.to_thread(cgroup_of, peer.pid) if peer.pid else ""
            if process is not None and process.ended:
                raise Refused(f"process {peer.pid} has ended")
            other = self._by_process.get(peer.pid)
            if other is not None and self._running(other) is None:
                other = None
            if other is not None and process is not None and own in (None, other.guest.name):
                process.close()
                return other
            if other is not None:
                raise Refused(
                    f"process {peer.pid} is guest {other.guest.name}, and came to the socket of guest {own}; "
                    "give each QEMU the socket of its own guest"
                )
            now = ProcessIdentity(peer.uid, cgroup_unit(cgroup), peer.label)
            attached = self._bind(peer.pid, process, said, now, own, lun)
        except BaseException:
            if process is not None:
                process.close()
            raise
        if process is None and own is not None:
            self._asked[own] = time.monotonic()
        log.info("A QEMU process is a guest.", guest=attached.guest.name, pid=peer.pid, identity=str(now))
        return attached

    async def _show(self, attached: Attached, lun: Designator) -> None:
        """The guest's process has shown a disk: from now on what it says of the guest counts."""
        process = attached.process
        if process is None or process.claim.shown:
            return
        luns, name = attached.luns, attached.guest.name
        foreign = process.claim.trust is Trust.CLAIMED and luns and lun not in luns
        # the process may still have one of the guest's disks
        if foreign and not await self._maker.has_open(process.pid, luns):
            raise self.claims.conflict(
                name,
                f"process {process.pid} ({process.identity}) says that it is guest {name}, and has LUN "
                f"{lun}, but none of the guest's: {', '.join(map(str, luns))}",
            )
        await self._count_as_shown(attached, process)

    async def show_by_open_disks(self, attached: Attached, luns: Iterable[Designator]) -> bool:
        """Whether the guest's process has proof, or has the disk of one of these LUNs open, which counts as a
        disk that it has shown."""
        process = attached.process
        if process is None or process.settled:
            return process is not None
        if not await self._maker.has_open(process.pid, luns):
            return False
        await self._count_as_shown(attached, process)
        return attached.process is process

    async def _count_as_shown(self, attached: Attached, process: Process) -> None:
        if attached.process is not process:
            return  # another process has taken its place, or it has ended
        process.claim = ProcessClaim(process.claim.trust, shown=True)
        self._settle(attached, process.said)
        if attached.recorded != process.identity:
            attached.recorded = process.identity
            await self._maker.note(attached)

    def _watch(self, pid: int) -> Process:
        try:
            return Process(pid, self._ended)
        except OSError as error:
            raise Refused(f"process {pid} cannot be watched: {error.strerror}") from error

    def _bind(
        self,
        pid: int,
        process: Process | None,
        said: QemuIdentity,
        now: ProcessIdentity,
        own: str | None,
        lun: Designator | None,
    ) -> Attached:
        """The guest that a process is, made now if it is new. No other process can be that guest."""
        attached = self._attached[own] if own is not None else self._match(pid, said)
        luns = frozenset() if attached is None else attached.luns
        shown = lun is not None and (not luns or lun in luns)
        name = attached.guest.name if attached is not None else said.name or said.uuid or ""
        trust = self.claims.judge(pid, name, attached, said, now, own, named=self.names.has(process))
        appearance = Appearance.NOTHING
        if attached is None:
            self.claims.check_room(pid, now, trust, shown=shown)
            attached = self.add(name, said.machine_type or DEFAULT_MACHINE_TYPE, Gate.INCOMING)
            appearance = appear(None, incoming=said.incoming, has_devices=False)
        elif (before := self._running(attached)) is not None and before.pid != pid:
            if not may_replace(ProcessClaim(trust, shown), before.claim):
                raise self.claims.conflict(
                    name,
                    f"process {pid} has the name of guest {name}, but process {before.pid} already is that "
                    "guest; give each guest its own -name and -uuid",
                )
            self._displace(attached, before, pid)
        if process is None:
            self._settle(attached, said)
            return attached
        process.identity, process.said, process.claim = now, said, ProcessClaim(trust)
        attached.process = process
        self._by_process[pid] = attached
        if appearance is Appearance.STARTS:
            self._starting.start(attached)
        if trust >= Trust.RECORDED:
            self._settle(attached, said)
        return attached

    def _displace(self, attached: Attached, process: Process, by: int) -> None:
        """Another process is the guest: it has better proof."""
        name = attached.guest.name
        refused = self.claims.conflict(
            name, f"process {process.pid} ({process.identity}) is not guest {name}: process {by} is"
        )
        log.warning(
            "A process is no longer taken for a guest.", guest=name, pid=process.pid, reason=str(refused)
        )
        del self._by_process[process.pid]
        attached.process = None
        attached.release()
        process.close()

    def _settle(self, attached: Attached, said: QemuIdentity) -> None:
        """Use what a guest's process says of the guest."""
        process = attached.process
        if process is not None:
            if process.settled:
                return
            process.settled = True
        self._come_back(attached, said)
        attached.uuid = said.uuid or attached.uuid
        if attached.left_to_qemu != said.moves_itself:
            self._leave(attached, said.moves_itself)

    def _match(self, pid: int, said: QemuIdentity) -> Attached | None:
        name, uuid = said.name, said.uuid
        by_uuid = [each for each in self._attached.values() if uuid is not None and each.uuid == uuid]
        found = {*by_uuid, *(each for each in self._attached.values() if each.guest.name in (name, uuid))}
        if len(found) > 1:
            names = " and ".join(sorted(each.guest.name for each in found))
            raise Refused(
                f"process {pid} has the name of one guest and the UUID of another: {names}; "
                "give each guest a -name and a -uuid of its own"
            )
        if not found:
            return None
        (attached,) = found
        if attached.listed or None in (uuid, attached.uuid) or attached in by_uuid:
            return attached
        needed = attached.holds or self._in_handover(attached.guest.name)
        if needed or self._running(attached) is not None:
            raise self.claims.conflict(
                attached.guest.name,
                f"process {pid} says that it is guest {name} with UUID {uuid}, and the guest of that name "
                f"that this agent knows has UUID {attached.uuid}; give each guest a name of its own",
            )
        self.forget(attached)
        return None

    def add(self, name: str, machine_type: str, gate: Gate) -> Attached:
        """Add a guest that no file names.

        Raises:
            Refused: The name cannot be used.
        """
        longest = max(len(name), len(machine_type))
        if not name or "/" in name or not name.isprintable() or longest > NAME_LENGTH:
            raise Refused(
                f"guest name {name[:NAME_LENGTH]!r} cannot be used; start QEMU with a -name without /, of "
                f"{NAME_LENGTH} characters at most"
            )
        kind = known_machine_type(machine_type)
        guest = self._make(name, kind or MachineType(machine_type, None, known=False), [])
        attached = self._attached[name] = Attached(guest, kind, gate)
        self._guests[name] = guest
        return attached

    def _come_back(self, attached: Attached, identity: QemuIdentity) -> None:
        """Set the gate of a known guest by what its new process shows, if that process can be seen."""
        if attached.fixed or identity == QemuIdentity() or self._in_handover(attached.guest.name):
            return
        devices = bool(attached.guest.devices)
        match appear(attached.gate_now, incoming=identity.incoming, has_devices=devices):
            case Appearance.ARRIVES:
                attached.expected = False
                attached.move_gate(Gate.INCOMING)
                self._spawn(self._maker.note(attached))
            case Appearance.STARTS:
                self._starting.start(attached)
            case Appearance.NOTHING:
                pass

    def _leave(self, attached: Attached, to_qemu: bool) -> None:
        """Leave a guest's reservations to its QEMU, or take them up again. The tracked state is kept."""
        old = attached.guest
        if to_qemu:
            attached.release()
            attached.kept = old, dict(attached.disks)
            kind = attached.machine_type or MachineType(old.machine_type, None, known=False)
            attached.guest = self._make(old.name, kind, [], left_to_qemu=True)
            attached.disks = {}
        elif attached.kept is not None:
            (attached.guest, attached.disks), attached.kept = attached.kept, None
        attached.left_to_qemu = to_qemu
        attached.gate = Gate.RUNNING
        self._guests[attached.guest.name] = attached.guest
        if to_qemu:
            return
        for device in attached.guest.devices:
            if device.block.migrate_pr and device.block.gate is Gate.RUNNING:
                # its QEMU may have changed it meanwhile
                device.block.mark_stale()
        self._spawn(old.close())

    def note_command(self, attached: Attached) -> None:
        """A guest has sent a command, so it runs: it runs here even if nobody has announced it."""
        if not attached.fixed:
            self._starting.note_command(attached, self._config.limits.step)

    # -- how it ends ------------------------------------------------------------------------------

    def _running(self, attached: Attached) -> Process | None:
        """The guest's process if it still runs; this does not wait for the loop to report a process's end."""
        process = attached.process
        if process is not None and process.ended:
            process.close()
            self._ended(process)
        return attached.process

    def _ended(self, process: Process) -> None:
        attached = self._by_process.get(process.pid)
        if attached is None or attached.process is not process:
            return
        del self._by_process[process.pid]
        attached.process = None
        attached.release()
        log.info("The QEMU process of a guest has ended.", guest=attached.guest.name, pid=process.pid)
        if attached.left_to_qemu:
            self._leave(attached, False)
        if attached.gate_now is Gate.RUNNING:
            self._forget_if_settled(attached)
        else:
            self.remember_for_a_while(attached)

    def remember_for_a_while(self, attached: Attached) -> None:
        """Forget a guest after some minutes, unless a process runs it or a handover moves it."""
        timer = self._timers.pop(attached, None)
        if timer is not None:
            timer.cancel()
        if attached.listed:
            return
        loop = asyncio.get_running_loop()
        self._timers[attached] = loop.call_later(_REMEMBERED_SECONDS, self._remember_or_forget, attached)

    def _remember_or_forget(self, attached: Attached) -> None:
        del self._timers[attached]
        if attached.process is None and not self._forget_if_settled(attached):
            self.remember_for_a_while(attached)

    def _forget_if_settled(self, attached: Attached) -> bool:
        if attached.listed or attached.holds or self._in_handover(attached.guest.name):
            return False
        self.forget(attached)
        return True

    def forget(self, attached: Attached, *, recorded: bool = True) -> None:
        """Forget a guest that no file names. ``recorded``: whether the record under its name is its own."""
        name = attached.guest.name
        if self._attached.get(name) is attached:
            del self._attached[name], self._guests[name]
            self.claims.forget(name)
        if (timer := self._timers.pop(attached, None)) is not None:
            timer.cancel()
        self._starting.forget(attached)
        self._spawn(attached.guest.close())
        if recorded:
            self._spawn(self._maker.forget(name))

    def _spawn(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Watch no process any more; the owner of the guests closes the guests themselves."""
        for timer in self._timers.values():
            timer.cancel()
        for attached in self._by_process.values():
            if attached.process is not None:
                attached.process.close()
        self._by_process.clear()
        for attached in self._attached.values():
            if attached.kept is not None:
                await attached.kept[0].close()
        for task in tuple(self._attaching.values()):
            task.cancel()
        await self._starting.close()
        await asyncio.gather(*self._tasks, *self._attaching.values(), return_exceptions=True)
