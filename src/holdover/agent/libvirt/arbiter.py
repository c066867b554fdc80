"""The arbiter, which answers libvirt's questions: it carries out what `holdover.libvirt.policy` decides."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.processes.libvirt_names import LibvirtNames
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import HandoverSummary
from holdover.agent.handover.handovers import HandoverProblem, Handovers
from holdover.agent.libvirt.facts import Facts
from holdover.agent.libvirt.memory import GuestMemories
from holdover.agent.libvirt.observations import Observations
from holdover.agent.libvirt.peer_questions import AskFailed, PeerAnswers, PeerQuestions, tracked_by
from holdover.agent.libvirt.qemu_events import QemuEvents
from holdover.agent.placement.claims import ClaimRefused
from holdover.agent.placement.refusal import ColdStartRefused
from holdover.api.client import AgentError
from holdover.api.libvirt_documents import GuestAnswer, GuestQuestion
from holdover.api.peer_hosts import Peers
from holdover.config.agent_file import AgentConfig
from holdover.handover.states import Event
from holdover.journal.journal import JournalError
from holdover.libvirt.lock_protocol import Register
from holdover.libvirt.policy import Known, Other, Question, Refusal, Seen, Task, Whereabouts, decide

log = structlog.get_logger()

_PAUSE = 0.5
"""The seconds before a task that failed in post-copy is tried again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_ANSWER_SECONDS = 8.0
_FAILURES = (
    AskFailed,
    HandoverProblem,
    AgentError,
    JournalError,
    OSError,
    ClaimRefused,
    ColdStartRefused,
)


class Arbiter:
    """The answers of one host to libvirt, and to other hosts about libvirt's guests.

    Attributes:
        events: libvirt's events of QEMU; None if the agent does not subscribe to them.
    """

    def __init__(
        self,
        config: AgentConfig,
        guests: Mapping[str, HostedGuest],
        peers: Peers,
        handovers: Handovers,
        attached: Callable[[str], Attached | None],
        open_here: Callable[[str], Awaitable[None]],
        open_disks: OpenDisks,
        names: LibvirtNames,
    ) -> None:
        """The rest of the agent shares ``guests``. ``attached`` finds a guest with its gate; ``open_here``
        lets a guest run here that no host has; ``open_disks`` looks at what a QEMU has open; ``names`` is
        told which QEMU is which guest."""
        self._config = config
        self._peers = peers
        self._handovers = handovers
        self._attached = attached
        self._open_here = open_here
        memory = GuestMemories(Path(config.state_dir) / "libvirt.json")
        self._facts = Facts(guests, handovers, attached, memory, open_disks, names, self._ended)
        self._answers = PeerAnswers(config.name, self._facts, handovers, self._ended)
        self._observations = Observations(self._facts, self, self._runs, _FAILURES)
        self.events: QemuEvents | None = None
        if config.libvirt is not None and config.libvirt.events:
            self.events = QemuEvents(config.libvirt.events, self.observed)
        self._after: dict[str, asyncio.Task[None]] = {}

    def observed(self, guest: str, uuid: str, seen: Seen) -> None:
        """libvirt has passed on something about a guest's QEMU here."""
        self._observations.add(guest, uuid, seen)

    async def _runs(self, guest: str) -> bool:
        return self.events is not None and await self.events.runs(guest)

    def reconfigure(self, config: AgentConfig) -> None:
        """Use ``config`` from now on."""
        self._config = config

    def go_on(self) -> None:
        """After a restart of the agent, and after its handovers have been restored: watch the QEMUs again."""
        self._facts.watch_again()
        if self.events is not None:
            self.events.start()

    async def asked(self, question: GuestQuestion, sender: str) -> GuestAnswer:
        """The answer to another host; ``sender`` is the name in its certificate."""
        return await self._answers.answer(question, sender)

    # -- which guests are tracked -------------------------------------------------------------------

    def tracked(self) -> Mapping[str, str]:
        """The guests that this host tracks, with their UUIDs."""
        return self._facts.tracked()

    def peers(self) -> tuple[str, ...]:
        """The names of the peers."""
        return tuple(peer.name for peer in self._config.peer)

    async def tracked_elsewhere(self) -> Mapping[str, Mapping[str, str] | None]:
        """What each peer tracks; None for a peer that cannot be asked."""
        names = self.peers()
        said = await asyncio.gather(*(tracked_by(self._peers, name) for name in names))
        return dict(zip(names, said, strict=True))

    # -- asked by libvirt ---------------------------------------------------------------------------

    async def begins(self, owner: Register, asks: Callable[[], bool]) -> str:
        """Whether a QEMU may begin: empty for yes, else the reason for no. ``asks`` returns whether libvirt
        still waits.
        """
        try:
            await self._facts.begins(owner)
        except OSError as error:
            log.warning(
                "A QEMU process of libvirt cannot be watched.",
                guest=owner.name,
                pid=owner.pid,
                reason=str(error),
            )
            if self._facts.place(owner.name, str(owner.uuid)) is not Whereabouts.NOT_TRACKED:
                return f"guest {owner.name}: its QEMU cannot be watched: {error}"
        return await self._answer(Question.BEGINS, owner, asks)

    async def may_run(self, owner: Register, asks: Callable[[], bool]) -> str:
        """Whether a guest may run here. Returns as `begins`."""
        log.info("Libvirt asks whether a guest may run.", guest=owner.name)
        if not self._facts.has_heard_of(owner):
            refused = await self._begins_late(owner, asks)
            if refused:
                return refused
        if self._facts.place(owner.name, str(owner.uuid)) is Whereabouts.LEAVING:
            # Every second question is about a guest that goes on. If libvirt calls `observe`, that is more
            # precise.
            await self._note_stopped(owner.name, not self._facts.has_stopped(owner.name))
        return await self._answer(Question.MAY_RUN, owner, asks)

    async def _begins_late(self, owner: Register, asks: Callable[[], bool]) -> str:
        """Whether a QEMU may begin that has begun while the agent was not there."""
        try:
            await self._facts.begins(owner)
        except OSError:
            return ""  # it has ended
        return await self._answer(Question.BEGINS, owner, asks)

    async def observe(self, owner: Register, *, runs: bool) -> None:
        """Note that libvirt has said that the guest runs from now on, or that it has stopped.

        Raises:
            OSError: This could not be put on record.
        """
        if self._facts.place(owner.name, str(owner.uuid)) is Whereabouts.LEAVING:
            await self._note_stopped(owner.name, not runs)
        log.info("Libvirt says whether a guest runs.", guest=owner.name, runs=runs)

    async def _note_stopped(self, guest: str, stopped: bool) -> None:
        """Note whether a guest has stopped; it is on record when this returns.

        An agent that is restarted would otherwise take the next question for the other one of the two.
        """
        handover, memory = self._facts.handover(guest), self._facts.memory(guest)
        now = handover.handover_id if stopped and handover is not None else ""
        if memory.stopped != now:
            memory.stopped = now
            await self._facts.save()

    async def _answer(self, question: Question, owner: Register, asks: Callable[[], bool]) -> str:
        questions = self.questions(owner.name, str(owner.uuid))
        limit = _ANSWER_SECONDS if self._config.libvirt is None else self._config.libvirt.answer_within
        end = asyncio.get_running_loop().time() + limit
        other, failed = Other.UNASKED, False
        while True:
            known = await self._facts.known(owner, other, asks=asks(), failed=failed)
            decision = decide(question, known)
            if decision.yes:
                return ""
            if decision.refusal is not None:
                text = self.refusal(decision.refusal, owner.name, questions, known.place)
                log.warning("Libvirt may not run a guest.", guest=owner.name, reason=text)
                return text
            if decision.task is None or decision.task is Task.TRY_AGAIN:
                await asyncio.sleep(_PAUSE)
                other, failed = Other.UNASKED, False
                continue
            try:
                async with asyncio.timeout_at(None if known.post_copy else end):
                    other = await self.carry_out(decision.task, owner.name, questions) or other
            except TimeoutError:
                failed, questions.why = True, f"this took longer than {limit:g} s"
            except _FAILURES as error:
                failed, questions.why = True, str(error)

    def questions(self, guest: str, uuid: str) -> PeerQuestions:
        """The questions to other hosts about a guest."""
        handover = self._facts.handover(guest)
        names = tuple(peer.name for peer in self._config.peer) if handover is None else (handover.peer,)
        return PeerQuestions(self._peers, names, guest, uuid)

    def refusal(self, refusal: Refusal, guest: str, questions: PeerQuestions, where: Whereabouts) -> str:
        """The text of a refusal."""
        handover = self._facts.handover(guest)
        peer = questions.peer or ("another host" if handover is None else handover.peer)
        why = questions.why or where.value
        return refusal.value.format(guest=guest, host=self._config.name, peer=peer, why=why)

    # -- tasks --------------------------------------------------------------------------------------

    async def carry_out(self, task: Task, guest: str, questions: PeerQuestions) -> Other | None:
        """Do a task; return what other hosts have said, if they were asked."""
        log.info("Another host asks about a guest of libvirt.", guest=guest, task=task.value)
        match task:
            case Task.ASK_ALL:
                return await questions.ask_all()
            case Task.ASK_DESTINATION:
                handover = self._handover(guest)
                return await questions.ask_destination(handover.peer, handover.handover_id)
            case Task.ASK_SOURCE:
                return await questions.ask_source(self._handover(guest).peer)
            case Task.COMMIT_HERE:
                await self._answers.commit_here(guest, self._handover(guest).handover_id)
            case Task.PREPARE:
                await questions.prepare()
            case Task.COMMIT:
                await questions.commit(self._handover(guest).peer, self._handover(guest).handover_id)
            case Task.GRANT:
                await self._grant(guest)
            case Task.OPEN:
                await self._open_here(guest)
            case Task.ROLL_BACK:
                await self._handovers.ask(guest, self._handover(guest).handover_id, Event.ASKED_ROLL_BACK)
            case Task.ASK_ROLL_BACK:
                await questions.roll_back(self._handover(guest).peer, self._handover(guest).handover_id)
            case Task.FINISH:
                await self._handovers.ask(guest, self._handover(guest).handover_id, Event.ASKED_FINISH)
            case _:
                raise TypeError(f"{task} is nothing to carry out")
        return None

    def _handover(self, guest: str) -> HandoverSummary:
        handover = self._facts.handover(guest)
        if handover is None:
            raise AskFailed(f"the handover of guest {guest} is over")
        return handover

    async def _grant(self, guest: str) -> None:
        memory, handover_id = self._facts.memory(guest), self._handover(guest).handover_id
        if memory.revoked == handover_id:
            raise AskFailed(f"the source takes guest {guest} back")
        memory.granted = handover_id
        try:
            await self._facts.save()
        except BaseException:
            memory.granted = ""  # libvirt is refused, so nobody may hear that the guest runs here
            raise

    # -- the end of a QEMU --------------------------------------------------------------------------

    def _ended(self, guest: str) -> None:
        """Handle the end of a guest's QEMU on this host: try the necessary tasks until they are done."""
        before = self._after.get(guest)
        if before is None or before.done():
            task = self._after[guest] = asyncio.ensure_future(self._after_the_end(guest))
            task.add_done_callback(lambda _: self._done_after(guest))

    def _done_after(self, guest: str) -> None:
        task = self._after.get(guest)
        if task is not None and task.done():
            del self._after[guest]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error(
                    "The work after the end of a QEMU process has failed unexpectedly.",
                    guest=guest,
                    exc_info=error,
                )

    async def _after_the_end(self, guest: str) -> None:
        pause = _FIRST_PAUSE
        uuid = self._facts.memory(guest).uuid
        while not await self._facts.lives(guest, uuid):
            known = Known(
                place=self._facts.place(guest, uuid), granted=self._facts.granted(guest), alive=False
            )
            task = decide(Question.ENDED, known).task
            if task is None:
                if known.place is Whereabouts.NOT_TRACKED:
                    self._facts.forget(guest)
                return
            handover = self._handover(guest)
            try:
                await self.carry_out(task, guest, PeerQuestions(self._peers, (handover.peer,), guest, uuid))
            except _FAILURES as error:
                log.warning(
                    "Libvirt has ended a QEMU process whose guest may not run.",
                    guest=guest,
                    task=task.value,
                    reason=str(error),
                )
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    async def close(self) -> None:
        """Stop. Tasks that are under way continue after the next start of the agent."""
        if self.events is not None:
            await self.events.close()
        await self._observations.close()
        tasks: list[asyncio.Task[Any]] = list(self._after.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._facts.close()
