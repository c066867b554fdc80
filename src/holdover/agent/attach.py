"""Guests that come through the helper's socket: which one a process is, and those that no file names.

A guest is known by its name or its UUID. The process that it runs in is the one at the other end of a
connection, watched until it ends; meanwhile no other process can be this guest. When it has ended, what the
guest holds is remembered if it holds anything, and the next process of that name or UUID goes on with it.

A QEMU that waits for a migration becomes a guest that is to arrive. If it runs all the same, and no host has
announced it, then it was migrated by others, or this agent has forgotten it: after a while its commands pass,
and what it holds is read from the LUNs before it is used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import structlog

from holdover.agent.attach_devices import DeviceMaker
from holdover.agent.attach_process import Process
from holdover.agent.attach_qmp import MonitorIdentity, ask_monitor
from holdover.agent.attach_records import EXPECTED
from holdover.agent.attached import Attached, Refused
from holdover.agent.config import AgentConfig, monitor_of
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.agent.who import NotIdentified, QemuIdentity, identify_process
from holdover.guest.gate import Gate
from holdover.guest.machine import MachineType
from holdover.guest.options import OptionError
from holdover.helper.connection import Peer
from holdover.journal.records import DeviceRecord, GuestRecord
from holdover.qemu.monitor import QemuError

__all__ = ["Attachments", "MakeGuest"]

log = structlog.get_logger()

_DEFAULT_MACHINE = "pc"
"""What QEMU runs where its command line does not say."""

_REMEMBERED_SECONDS = 600.0
"""How long a guest without a process is remembered that is to arrive, or has gone elsewhere."""

_MONITOR_SECONDS = 10.0
"""QEMU connects before it can answer its monitor."""
_ASK_AGAIN_SECONDS = 60.0
"""A guest whose process cannot be seen may be another QEMU after that long."""


class MakeGuest(Protocol):
    """Makes what the rest of the agent sees of a guest."""

    def __call__(
        self, name: str, machine: MachineType, devices: list[GuestDevice], *, left_to_qemu: bool = False
    ) -> HostedGuest: ...


class Attachments:
    """The guests of the helper's sockets; ``guests``, which the rest of the agent uses, is kept in step."""

    def __init__(
        self,
        config: AgentConfig,
        guests: dict[str, HostedGuest],
        make: MakeGuest,
        maker: DeviceMaker,
        moving: Callable[[str], bool],
    ) -> None:
        """``moving``: whether a guest is being handed over."""
        self._moving = moving
        self._config = config
        self._guests = guests
        self._make = make
        self._maker = maker
        self._attached: dict[str, Attached] = {}
        self._by_process: dict[int, Attached] = {}
        self._attaching: dict[tuple[int, str | None], asyncio.Task[Attached]] = {}
        self._asked: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timers: dict[Attached, asyncio.TimerHandle] = {}
        """Of guests that are remembered for a while."""
        self._unannounced: dict[Attached, asyncio.TimerHandle] = {}

    # -- who it is --------------------------------------------------------------------------------

    def take_up(self, guest: HostedGuest, machine: MachineType, gate: Gate) -> None:
        """A guest of the agent's file."""
        fixed = guest if guest.devices else None
        expected = gate is Gate.INCOMING
        self._attached[guest.name] = Attached(
            guest, machine, gate, listed=True, expected=expected, home=fixed
        )

    def restore(self, guests: Iterable[GuestRecord], devices: Iterable[DeviceRecord]) -> None:
        """Take up the guests that are on record, and the devices of all whose devices no file gives."""
        for guest in guests:
            if guest.name in self._attached:
                continue  # the file names it now
            attached = self.add(guest.name, guest.machine, Gate.INCOMING)
            attached.uuid = guest.uuid
            attached.expected = guest.origin == EXPECTED
            self.remember_for_a_while(attached)
        for device in devices:
            known = self._attached.get(device.guest)
            if known is not None and not known.fixed:
                self._maker.restore(known, device)

    async def look_again(self, name: str) -> None:
        """After `restore`: see what a guest has by now."""
        attached = self._attached.get(name)
        if attached is not None and not attached.fixed:
            await self._maker.look_again(attached)

    def get(self, name: str) -> Attached | None:
        """The guest of a name, where it is one that comes through the helper's socket."""
        return self._attached.get(name)

    def welcome(self, peer: Peer, own: str | None) -> None:
        """A process has connected: QEMU does so when it starts, long before it sends the first command."""
        if peer.pid and not self.is_attached(peer.pid):
            self._spawn(self._try_to_attach(peer, own))

    async def _try_to_attach(self, peer: Peer, own: str | None) -> None:
        try:
            await self.guest_of(peer, own)
        except Refused as error:
            log.info("a client of the helper is no guest", pid=peer.pid, why=str(error))

    def is_attached(self, pid: int) -> bool:
        """Whether a process is known to be a guest."""
        return pid in self._by_process

    def process_of(self, peer: Peer) -> Process | None:
        """The process that a connection is known to be of, watched by the loop. For any thread."""
        attached = self._by_process.get(peer.pid)
        process = None if attached is None else attached.process
        if process is None or not process.started <= peer.since <= process.seen:
            return None
        return process

    async def guest_of(self, peer: Peer, own: str | None = None) -> Attached:
        """The guest that sends commands by a connection.

        ``own`` is the name of the guest whose socket it came by, None for the socket of all guests.

        Raises:
            Refused: It is none, or another process is this guest.
        """
        attached = self._known(peer, own)
        if attached is None:
            key = (peer.pid, own)
            task = self._attaching.get(key)
            if task is None:
                task = self._attaching[key] = asyncio.ensure_future(self._attach(peer, own))
                task.add_done_callback(lambda _: self._attaching.pop(key, None))
            attached = await asyncio.shield(task)
        return attached

    def _known(self, peer: Peer, own: str | None) -> Attached | None:
        if peer.pid:
            attached = self._by_process.get(peer.pid)
            process = None if attached is None else self._running(attached)
            if attached is None or process is None or process.started > peer.since:
                return None
            return attached if own in (None, attached.guest.name) else None
        if own is None or time.monotonic() - self._asked.get(own, 0.0) > _ASK_AGAIN_SECONDS:
            return None
        return self._attached[own]

    async def _attach(self, peer: Peer, own: str | None) -> Attached:
        # watched before it is looked at: what is read is of the process that is watched
        process = self._watch(peer.pid) if peer.pid else None
        try:
            if process is not None and process.started > peer.since:
                raise Refused(f"process {peer.pid} has ended, and its number is another process's now")
            identity = await self._identify(peer, own)
            said = await self._ask(peer.pid, identity, own)
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
            attached = self._bind(peer.pid, identity, said, own)
        except BaseException:
            if process is not None:
                process.close()
            raise
        if process is not None:
            attached.process = process
            self._by_process[peer.pid] = attached
        elif own is not None:
            self._asked[own] = time.monotonic()
        log.info(
            "a guest's QEMU", guest=attached.guest.name, pid=peer.pid, left_to_qemu=attached.left_to_qemu
        )
        return attached

    def _watch(self, pid: int) -> Process:
        try:
            return Process(pid, self._ended)
        except OSError as error:
            raise Refused(f"process {pid} cannot be watched: {error.strerror}") from error

    async def _identify(self, peer: Peer, own: str | None) -> QemuIdentity:
        try:
            return await asyncio.to_thread(identify_process, peer.pid)
        except NotIdentified as error:
            if own is not None:
                return QemuIdentity()
            raise Refused(str(error)) from error

    async def _ask(self, pid: int, identity: QemuIdentity, own: str | None) -> MonitorIdentity | None:
        """What the guest's monitor says; None where there is none that answers."""
        name = own or identity.name or identity.uuid or ""
        monitor = monitor_of(self._config, name, identity.uuid, pid)
        if monitor is None:
            return None
        try:
            async with asyncio.timeout(_MONITOR_SECONDS):
                said = await ask_monitor(monitor, timeout=_MONITOR_SECONDS)
        except (QemuError, TimeoutError) as error:
            log.warning(
                "the guest's monitor cannot be asked; its command line counts",
                guest=name,
                monitor=str(monitor),
                error=str(error),
            )
            return None
        if own is None and None not in (said.name, identity.name) and said.name != identity.name:
            raise Refused(
                f"process {pid} is guest {identity.name}, and at {monitor} is guest {said.name}; "
                "mend qmp in the agent's file"
            )
        return said

    def _bind(
        self, pid: int, identity: QemuIdentity, said: MonitorIdentity | None, own: str | None
    ) -> Attached:
        """The guest that a process is, made now where it is a new one. No other process can be it."""
        uuid = (said.uuid if said is not None else None) or identity.uuid
        moves_itself = identity.moves_itself if said is None else said.moves_itself
        machine = (said.machine if said is not None else None) or identity.machine or _DEFAULT_MACHINE
        attached = self._attached[own] if own is not None else self._match(pid, identity.name, uuid)
        if attached is None:
            gate = Gate.INCOMING if identity.incoming else Gate.RUNNING
            attached = self.add(identity.name or uuid or "", machine, gate)
        elif (process := self._running(attached)) is not None and process.pid != pid:
            raise Refused(
                f"process {pid} says that it is guest {attached.guest.name}, which process {process.pid} is; "
                "give each guest a -name and a -uuid of its own"
            )
        else:
            self._come_back(attached, identity)
        attached.uuid = uuid or attached.uuid
        if attached.left_to_qemu != moves_itself:
            self._leave(attached, moves_itself)
        return attached

    def _match(self, pid: int, name: str | None, uuid: str | None) -> Attached | None:
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
        needed = attached.holds or self._moving(attached.guest.name)
        if needed or self._running(attached) is not None:
            raise Refused(
                f"process {pid} says that it is guest {name} with UUID {uuid}, and the guest of that name "
                f"that this agent knows has UUID {attached.uuid}; give each guest a name of its own"
            )
        self.forget(attached)
        return None

    def add(self, name: str, machine: str, gate: Gate) -> Attached:
        """A guest that no file names.

        Raises:
            Refused: The name cannot be used.
        """
        if not name or "/" in name or not name.isprintable():
            raise Refused(f"guest name {name!r} cannot be used; start QEMU with a -name without /")
        kind = _known_machine(machine)
        guest = self._make(name, kind or MachineType(machine, None), [])
        attached = self._attached[name] = Attached(guest, kind, gate)
        self._guests[name] = guest
        return attached

    def _come_back(self, attached: Attached, identity: QemuIdentity) -> None:
        """A new process of a guest that is known: it tells where the guest stands now, if it can be seen."""
        if attached.fixed or identity == QemuIdentity() or self._moving(attached.guest.name):
            return
        # one with devices that runs here was migrated to this host long ago
        arrives = attached.gate_now is Gate.DEPARTED or not attached.guest.devices
        if identity.incoming and arrives and attached.gate_now is not Gate.INCOMING:
            attached.expected = False
            attached.move_gate(Gate.INCOMING)
            self._spawn(self._maker.note(attached))
        elif attached.gate_now is not Gate.RUNNING and not identity.incoming:
            self._spawn(self._maker.let_run(attached))

    def _leave(self, attached: Attached, to_qemu: bool) -> None:
        """Leave a guest's reservations to its QEMU, or take them up again."""
        old = attached.guest
        if attached.home is not None and not to_qemu:
            attached.guest = attached.home
        else:
            kind = attached.machine or MachineType(old.state().machine, None)
            attached.guest = self._make(old.name, kind, [], left_to_qemu=to_qemu)
        attached.left_to_qemu = to_qemu
        attached.disks.clear()
        attached.gate = Gate.RUNNING
        self._guests[old.name] = attached.guest
        if old is not attached.home:
            self._spawn(old.close())

    def note_command(self, attached: Attached) -> None:
        """A guest has sent a command, so it runs: one that nobody has announced runs here all the same."""
        unannounced = not attached.fixed and not attached.expected and not attached.left_to_qemu
        if unannounced and attached.gate_now is Gate.INCOMING and attached not in self._unannounced:
            loop = asyncio.get_running_loop()
            limit = self._config.limits.step
            self._unannounced[attached] = loop.call_later(limit, self._let_run, attached)

    def _let_run(self, attached: Attached) -> None:
        del self._unannounced[attached]
        if attached.expected or attached.gate_now is not Gate.INCOMING:
            return
        if not self._moving(attached.guest.name):
            log.warning(
                "a guest came here by a migration that no host has announced; what it held is not here",
                guest=attached.guest.name,
            )
            self._spawn(self._maker.let_run(attached))

    # -- how it ends ------------------------------------------------------------------------------

    def _running(self, attached: Attached) -> Process | None:
        """The guest's process, if it still runs; it is not waited for that the end of another is told."""
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
        log.info("a guest's QEMU has ended", guest=attached.guest.name, pid=process.pid)
        if attached.left_to_qemu:
            self._leave(attached, False)
        if attached.gate_now is Gate.RUNNING:
            self._forget_if_settled(attached)
        else:
            self.remember_for_a_while(attached)

    def remember_for_a_while(self, attached: Attached) -> None:
        """Forget a guest that nobody runs and nobody hands over after some minutes."""
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
        if attached.listed or attached.holds or self._moving(attached.guest.name):
            return False
        self.forget(attached)
        return True

    def forget(self, attached: Attached) -> None:
        """Let go of a guest that no file names."""
        name = attached.guest.name
        if self._attached.get(name) is attached:
            del self._attached[name], self._guests[name]
        for timers in (self._timers, self._unannounced):
            timer = timers.pop(attached, None)
            if timer is not None:
                timer.cancel()
        self._spawn(attached.guest.close())
        self._spawn(self._maker.forget(name))

    def _spawn(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Watch no process any more; the guests themselves are closed by whoever has them."""
        for timer in (*self._timers.values(), *self._unannounced.values()):
            timer.cancel()
        for attached in self._by_process.values():
            if attached.process is not None:
                attached.process.close()
        self._by_process.clear()
        for task in tuple(self._attaching.values()):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._attaching.values(), return_exceptions=True)


def _known_machine(text: str) -> MachineType | None:
    try:
        return MachineType.parse(text)
    except OptionError:
        return None
