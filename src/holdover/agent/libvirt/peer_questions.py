"""What this host asks other hosts about a guest, and what it does when they ask."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping

import structlog

from holdover.agent.handover.handovers import HandoverProblem, Handovers
from holdover.agent.libvirt.facts import Facts
from holdover.api.client import AgentError
from holdover.api.libvirt_documents import Ask, GuestAnswer, GuestQuestion
from holdover.api.peer_hosts import Peers
from holdover.handover.states import DestinationState, Event
from holdover.libvirt.policy import Other, Whereabouts

log = structlog.get_logger()

_BRIEFLY = 2.0
"""The seconds that a peer has to say whether it has a guest."""
_STOPS_WITHIN, _LOOK_AGAIN = 2.0, 0.02
"""The seconds that libvirt on the source has to say that the guest has stopped, and the seconds between two
checks.
"""
_HAS = frozenset({Whereabouts.HERE, Whereabouts.LEAVING, Whereabouts.COME})


class AskFailed(Exception):
    """Another host has not done what it was asked; the message says why."""


async def tracked_by(peers: Peers, name: str) -> Mapping[str, str] | None:
    """The guests that a peer tracks, with their UUIDs; None if the peer cannot be asked."""
    try:
        return (await peers.client(name).ask_about(GuestQuestion(ask=Ask.TRACKED))).tracked
    except (AgentError, LookupError):
        return None


class PeerQuestions:
    """The questions of one answer to libvirt.

    Attributes:
        peer: The host that the last answer was about; empty if no host has the guest.
        why: Why a host could not be asked.
    """

    def __init__(self, peers: Peers, names: tuple[str, ...], guest: str, uuid: str) -> None:
        """``names`` are the peers to ask who has the guest."""
        self.peer = ""
        self.why = ""
        self._peers = peers
        self._names = names
        self._guest = guest
        self._uuid = uuid

    async def ask_all(self) -> Other:
        """What all peers say of the guest; `peer` is the one that has it, or that cannot be asked."""
        answers = await asyncio.gather(*map(self._has, self._names))
        said = dict(zip(self._names, answers, strict=True))
        for name, answer in said.items():
            if isinstance(answer, GuestAnswer) and answer.has:
                self.peer = name
                return Other.RUNS if answer.alive else Other.ENDED
        for name, answer in said.items():
            if isinstance(answer, str):
                self.peer, self.why = name, answer
                return Other.UNREACHABLE
        return Other.NOBODY

    async def _has(self, name: str) -> GuestAnswer | str:
        try:
            async with asyncio.timeout(_BRIEFLY):
                return await self._ask(name, Ask.HAS, "")
        except (AskFailed, TimeoutError) as error:
            return str(error) or f"{name} has not answered within {_BRIEFLY:g} s"

    async def ask_destination(self, name: str, handover_id: str) -> Other:
        """Whether the destination has let the guest run. If it has not, it will not do so later."""
        self.peer = name
        try:
            answer = await self._ask(name, Ask.YIELD, handover_id)
        except AskFailed as error:
            self.why = str(error)
            return Other.UNREACHABLE
        if answer.problem:
            self.why = answer.problem
            return Other.UNREACHABLE
        return Other.GRANTED if answer.granted else Other.NOT_GRANTED

    async def ask_source(self, name: str) -> Other:
        """Whether the guest's QEMU on the source lives."""
        self.peer = name
        answer = await self._has(name)
        if isinstance(answer, str):
            self.why = answer
            return Other.UNREACHABLE
        return Other.RUNS if answer.alive else Other.ENDED

    async def prepare(self) -> None:
        """Have the host that has the guest prepare a handover to here.

        Raises:
            AskFailed: It has not prepared one.
        """
        await self._must(self.peer, Ask.PREPARE, f"libvirt-{secrets.token_hex(8)}")

    async def commit(self, name: str, handover_id: str) -> None:
        """Have the source commit. Raises as `prepare`."""
        await self._must(name, Ask.COMMIT, handover_id)

    async def roll_back(self, name: str, handover_id: str) -> None:
        """Have the source roll back. Raises as `prepare`."""
        await self._must(name, Ask.ROLL_BACK, handover_id)

    async def _must(self, name: str, ask: Ask, handover_id: str) -> None:
        self.peer = name
        answer = await self._ask(name, ask, handover_id)
        if answer.problem:
            raise AskFailed(answer.problem)

    async def _ask(self, name: str, ask: Ask, handover_id: str) -> GuestAnswer:
        question = GuestQuestion(ask=ask, guest=self._guest, uuid=self._uuid, handover_id=handover_id)
        try:
            return await self._peers.client(name).ask_about(question)
        except (AgentError, LookupError) as error:
            raise AskFailed(str(error)) from error


class PeerAnswers:
    """What this host says and does when other hosts ask."""

    def __init__(self, host: str, facts: Facts, handovers: Handovers, finish: Callable[[str], None]) -> None:
        """``finish`` is told of a guest that was committed, and whose QEMU here has ended."""
        self._host = host
        self._facts = facts
        self._handovers = handovers
        self._finish = finish

    async def answer(self, question: GuestQuestion, sender: str) -> GuestAnswer:
        """The answer to a question; ``sender`` is the name in the asker's certificate."""
        if question.ask is Ask.TRACKED:
            return GuestAnswer(host=self._host, tracked=self._facts.tracked())
        guest, uuid = question.guest, question.uuid
        place = self._facts.place(guest, uuid)
        alive = await self._facts.lives(guest, uuid)
        if question.ask is Ask.HAS:
            return GuestAnswer(host=self._host, has=place in _HAS, alive=alive)
        try:
            if question.ask is Ask.YIELD:
                return await self._yield(question, sender, alive=alive)
            if question.ask is Ask.PREPARE:
                await self._prepare(question, sender, place)
            elif question.ask is Ask.COMMIT:
                await self._commit(question, sender, alive=alive)
            else:
                self._require_destination(question, sender)
                await self._handovers.ask(guest, question.handover_id, Event.ASKED_ROLL_BACK)
        except (HandoverProblem, AskFailed, OSError) as error:
            return GuestAnswer(host=self._host, alive=alive, problem=str(error))
        return GuestAnswer(host=self._host, alive=alive)

    async def _prepare(self, question: GuestQuestion, sender: str, place: Whereabouts) -> None:
        handover = self._facts.handover(question.guest)
        if place is Whereabouts.LEAVING and handover is not None and handover.peer == sender:
            handover_id = handover.handover_id  # an operator has begun it, or this is the second time
        elif place is Whereabouts.HERE:
            handover_id = question.handover_id
        else:
            raise AskFailed(f"guest {question.guest} cannot leave {self._host}: {place.value}")
        await self._handovers.prepare(question.guest, handover_id, sender)

    async def _commit(self, question: GuestQuestion, sender: str, *, alive: bool) -> None:
        guest, handover_id = question.guest, question.handover_id
        self._require_destination(question, sender)
        if self._facts.place(guest, question.uuid) is Whereabouts.LEAVING:
            if alive and not await self._stops(guest, question.uuid):
                raise AskFailed(
                    f"libvirt on {self._host} has not told the agent there that guest {guest} has stopped; "
                    "see that its lock_manager is the agent (holdover libvirt check)"
                )
            if self._facts.place(guest, question.uuid) is not Whereabouts.LEAVING:
                raise AskFailed(f"handover {handover_id} of guest {guest} is not prepared any more")
        await self.commit_here(guest, handover_id)
        if not await self._facts.lives(guest, question.uuid):
            self._finish(guest)

    async def commit_here(self, guest: str, handover_id: str) -> None:
        """Commit a handover of which this host is the source.

        Raises:
            HandoverProblem: It is not committed.
        """
        self._facts.giving[guest] = handover_id
        try:
            await self._handovers.ask(guest, handover_id, Event.ASKED_COMMIT)
        finally:
            self._facts.giving.pop(guest, None)

    async def _stops(self, guest: str, uuid: str) -> bool:
        """Whether libvirt here has said that the guest has stopped, or its QEMU has ended.

        libvirt says so in a thread of its own, which may come after the question on the destination.
        """
        end = asyncio.get_running_loop().time() + _STOPS_WITHIN
        while not self._facts.has_stopped(guest) and await self._facts.lives(guest, uuid):
            if asyncio.get_running_loop().time() > end:
                return False
            await asyncio.sleep(_LOOK_AGAIN)
        return True

    def _require_destination(self, question: GuestQuestion, sender: str) -> None:
        handover = self._facts.handover(question.guest)
        if handover is None or (handover.handover_id, handover.peer) != (question.handover_id, sender):
            raise AskFailed(
                f"handover {question.handover_id} of guest {question.guest} is not one to {sender}"
            )
        if handover.role != "source":
            raise AskFailed(f"{self._host} is not the source of handover {question.handover_id}")

    async def _yield(self, question: GuestQuestion, sender: str, *, alive: bool) -> GuestAnswer:
        newest = self._handovers.summary(question.guest)
        if newest is None or (newest.handover_id, newest.peer) != (question.handover_id, sender):
            raise AskFailed(f"{self._host} knows nothing of handover {question.handover_id} from {sender}")
        memory = self._facts.memory(question.guest)
        is_over = newest.state == DestinationState.HERE.value
        if is_over or (memory.granted == question.handover_id and alive):
            return GuestAnswer(host=self._host, has=True, alive=alive, granted=True)
        memory.granted, memory.revoked = "", question.handover_id
        await self._facts.save()
        return GuestAnswer(host=self._host, alive=alive)
