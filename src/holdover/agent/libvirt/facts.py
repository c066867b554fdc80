"""The facts that this host knows of a guest when libvirt or another host asks about it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping

import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.disks.open_disks_server import USERFAULTFD
from holdover.agent.attach.hosted_guest import LeftToQemu
from holdover.agent.attach.processes.libvirt_names import LibvirtNames
from holdover.agent.attach.processes.process import Process
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import HandoverSummary
from holdover.agent.handover.handovers import Handovers
from holdover.agent.libvirt.memory import GuestMemories, GuestMemory
from holdover.agent.libvirt.qemu import is_incoming, runs_somewhere
from holdover.agent.state_file import boot_id
from holdover.guest.gate import Gate
from holdover.handover.state_table import DESTINATION, SOURCE
from holdover.handover.states import DestinationState, SourceState
from holdover.helper.process import start_time
from holdover.libvirt.lock_protocol import Register
from holdover.libvirt.policy import Known, Other, Whereabouts

log = structlog.get_logger()

_NOT_HERE_YET = frozenset({Whereabouts.COMING, Whereabouts.COME, Whereabouts.AWAY})


class Facts:
    """The facts about the guests of this host, from its agent, the kernel and libvirt's questions.

    Attributes:
        giving: By guest: the handover that is being committed at this moment, even if no record says so yet.
    """

    def __init__(
        self,
        guests: Mapping[str, HostedGuest],
        handovers: Handovers,
        attached: Callable[[str], Attached | None],
        memory: GuestMemories,
        open_disks: OpenDisks,
        names: LibvirtNames,
        ended: Callable[[str], None],
    ) -> None:
        """``attached`` finds a guest with its gate by its name; ``open_disks`` looks at what a QEMU has open;
        ``names`` is told which QEMU is which guest;
        ``ended`` is told of each guest whose QEMU ends."""
        self.giving: dict[str, str] = {}
        self._guests = guests
        self._handovers = handovers
        self._attached = attached
        self._memory = memory
        self._open_disks = open_disks
        self._names = names
        self._tell = ended
        self._qemus: dict[str, Process] = {}

    def memory(self, guest: str) -> GuestMemory:
        """What is on record of a guest."""
        return self._memory.of(guest)

    def watch_again(self) -> None:
        """After a restart of the agent: watch the QEMUs that are on record. Tell of those that have ended."""
        ran = {guest: known for guest, known in self._memory.guests.items() if known.pid}
        boot = boot_id() if ran else ""
        for guest, known in ran.items():
            if not self._watch(guest, known, boot):
                self._tell(guest)

    def _watch(self, guest: str, known: GuestMemory, boot: str) -> bool:
        if known.boot != boot:
            return False
        try:
            process = Process(known.pid, lambda ended: self._qemu_ended(ended, guest))
        except OSError:
            return False
        if process.started != known.started:
            process.close()
            return False
        self._qemus[guest] = process
        self._names.name(process, guest, known.uuid)
        return True

    def _qemu_ended(self, process: Process, guest: str) -> None:
        self._names.forget(process)
        self._tell(guest)

    async def begins(self, owner: Register) -> None:
        """A QEMU of a guest begins here: watch it, and put it on record.

        Raises:
            OSError: There is no such process, or the record cannot be written.
        """
        known = self.memory(owner.name)
        known.uuid, known.pid = str(owner.uuid), owner.pid
        known.started, known.boot = start_time(owner.pid), boot_id()
        before = self._qemus.pop(owner.name, None)
        if before is not None:
            before.close()
        if not self._watch(owner.name, known, known.boot):
            raise ProcessLookupError(f"process {owner.pid} has ended")
        await self._memory.save()

    def has_heard_of(self, owner: Register) -> bool:
        """Whether the QEMU that a question is about is the one that began here last."""
        return owner.pid == self._pid(owner.name)

    def tracked(self) -> Mapping[str, str]:
        """The guests of which this host tracks something, or may, with their UUIDs."""
        found = {}
        for name in self._guests:
            attached = self._attached(name)
            uuid = (attached.uuid if attached is not None else None) or ""
            known = self._memory.guests.get(name)
            if self.handover(name) is not None or (
                self.place(name, "") is not Whereabouts.NOT_TRACKED
                and attached is not None
                and attached.holds
            ):
                found[name] = uuid or ("" if known is None else known.uuid)
        return found

    async def save(self) -> None:
        """Put what `memory` says now on record.

        Raises:
            OSError: It cannot be written.
        """
        await self._memory.save()

    # -- where it is --------------------------------------------------------------------------------

    def handover(self, guest: str) -> HandoverSummary | None:
        """The handover of a guest that is under way; None if there is none."""
        newest = self._handovers.summary(guest)
        return newest if newest is not None and newest.open else None

    def place(self, guest: str, uuid: str) -> Whereabouts:
        """Where a guest is."""
        found = self._guests.get(guest)
        attached = self._attached(guest)
        if found is None or attached is None or isinstance(found, LeftToQemu):
            return Whereabouts.NOT_TRACKED
        if uuid and uuid not in (attached.uuid or uuid, self.memory(guest).uuid or uuid):
            return Whereabouts.NOT_TRACKED  # it is another guest of that name
        handover = self.handover(guest)
        if handover is None:
            return Whereabouts.HERE if attached.gate_now is Gate.RUNNING else Whereabouts.AWAY
        if handover.role == "source":
            # the gate shuts before the record says that the guest leaves
            stays = SOURCE[SourceState(handover.state)].gate is attached.gate_now is Gate.RUNNING
            return Whereabouts.LEAVING if stays and guest not in self.giving else Whereabouts.LEFT
        # a guest that goes back already has its gate shut, though no record says so yet
        here = DESTINATION[DestinationState(handover.state)].gate is attached.gate_now is Gate.RUNNING
        return Whereabouts.COME if here else Whereabouts.COMING

    async def known(self, owner: Register, other: Other, *, asks: bool, failed: bool) -> Known:
        """All that is known of a guest now; ``asks``: whether libvirt still waits for the answer."""
        guest = owner.name
        pid = self._pid(guest)
        post_copy = incoming = False
        if pid and self.place(guest, str(owner.uuid)) in _NOT_HERE_YET:
            incoming = await asyncio.to_thread(is_incoming, pid)
            post_copy = incoming and USERFAULTFD in await self._open_disks.of(pid)
        return Known(
            place=self.place(guest, str(owner.uuid)),
            other=other,
            incoming=incoming,
            alive=asks and bool(pid),
            granted=self.granted(guest),
            post_copy=post_copy,
            failed=failed,
        )

    def observed(self, guest: str, uuid: str, other: Other, *, failed: bool) -> Known:
        """What matters of a guest after libvirt has passed on something about its QEMU here."""
        attached, found = self._attached(guest), self._guests.get(guest)
        exported = found is not None and found.target is not None
        return Known(
            place=self.place(guest, uuid),
            other=other,
            failed=failed,
            stopped=self.has_stopped(guest),
            gated=exported and attached is not None and attached.fixed,
        )

    def has_stopped(self, guest: str) -> bool:
        """Whether libvirt has said, since the present handover began, that a guest has stopped here, and has
        not said since then that the guest goes on.
        """
        handover = self.handover(guest)
        return handover is not None and self.memory(guest).stopped == handover.handover_id

    def granted(self, guest: str) -> bool:
        """Whether a guest was let run here after the handover that is under way."""
        handover = self.handover(guest)
        return handover is not None and self.memory(guest).granted == handover.handover_id

    # -- its QEMU -----------------------------------------------------------------------------------

    async def lives(self, guest: str, uuid: str) -> bool:
        """Whether a QEMU of a guest lives on this host."""
        if self._pid(guest) or self._is_attached(guest, uuid):
            return True
        known = self._memory.guests.get(guest)
        if known is not None and known.pid:
            return False
        return await asyncio.to_thread(runs_somewhere, guest, uuid)

    def _is_attached(self, guest: str, uuid: str) -> bool:
        """Whether a QEMU has the guest's disks, though libvirt may not have asked before it began."""
        attached = self._attached(guest)
        if attached is None or attached.process is None or uuid not in ("", attached.uuid or uuid):
            return False
        return not attached.process.ended

    def _pid(self, guest: str) -> int:
        process = self._qemus.get(guest)
        return 0 if process is None or process.ended else process.pid

    def forget(self, guest: str) -> None:
        """Forget a guest whose QEMU has ended, and of which this host knows nothing else."""
        if not self._pid(guest):
            self._memory.guests.pop(guest, None)
            ended = self._qemus.pop(guest, None)
            if ended is not None:
                ended.close()

    def close(self) -> None:
        """Watch no QEMU any more."""
        for process in self._qemus.values():
            with contextlib.suppress(OSError):
                process.close()
