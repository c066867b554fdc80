"""Carries out claims: this host asks all others before it lets a guest run that no host has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from holdover.agent.placement.dead_hosts import DeadHosts
from holdover.agent.placement.places import Places
from holdover.api.client import AgentError
from holdover.api.peer_hosts import PeerClient
from holdover.api.placement_documents import PlaceAnswer, PlaceQuestion
from holdover.config.agent_file import AgentConfig
from holdover.placement.claim import Claim, ClaimDecision, Said, Word

_ASK_SECONDS = 5.0
"""The seconds that a peer has to say what it knows of a guest."""

_ROUNDS = 8
"""How many rounds of questions a claim has, if the marks change in each of them."""


class ClaimRefused(Exception):
    """The guest may not run here; the message says why, what is true now, and what to do."""


class Claims:
    """The claims of this host, and its answers to those of other hosts."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        places: Places,
        peer: Callable[[str], PeerClient],
        hosts: DeadHosts,
    ) -> None:
        """``peer`` returns the client of a peer's agent."""
        self._hosts = hosts
        self._config = config
        self._places = places
        self._peer = peer
        self._claims: dict[str, Claim] = {}

    def receive(self, question: PlaceQuestion, sender: str) -> PlaceAnswer:
        """The answer to another host; ``sender`` is the name in its certificate."""
        config, said = self._config(), self._places.says(question.guest)
        claim = self._claims.get(question.guest)
        dead, word = self._hosts.declaration(sender), said.word
        if word is Word.FREE and claim is not None and question.claims and dead is None:
            word = claim.receive(sender)
        elif word is Word.FREE and claim is not None and claim.won:
            word = Word.HAS
        return PlaceAnswer(host=config.name, word=word, mark=said.mark, initiator=config.initiator, dead=dead)

    async def ask(self, guest: str, *, claims: bool = False) -> dict[str, Said]:
        """What all peers say of a guest; those that are declared dead are not asked.

        Raises:
            ClaimRefused: One of them cannot be asked, or has declared this host dead.
        """
        dead = self._hosts.dead
        names = [peer.name for peer in self._config().peer if peer.name not in dead]
        question = PlaceQuestion(guest=guest, claims=claims)
        said = await asyncio.gather(*(self._ask(name, question) for name in names))
        return dict(zip(names, said, strict=True))

    async def _ask(self, peer: str, question: PlaceQuestion) -> Said:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                answer = await self._peer(peer).place(question)
        except (AgentError, TimeoutError) as error:
            why = str(error) or f"{peer} has not answered within {_ASK_SECONDS:g} s"
            raise ClaimRefused(
                f"whether guest {question.guest} runs on {peer} is not known: {why}; nothing was changed. If "
                f"{peer} is dead, fence it, then: holdover host declare-dead {peer}"
            ) from error
        await self._note(peer, answer)
        return Said(answer.word, answer.mark)

    async def _note(self, peer: str, answer: PlaceAnswer) -> None:
        try:
            await self._hosts.note(peer, answer)
        except OSError as error:
            raise ClaimRefused(f"what {peer} says cannot be put on record: {error}") from error
        if answer.dead is not None:
            here = self._config().name
            raise ClaimRefused(
                f"{peer} has declared {here} dead (by {answer.dead.by}), so no guest may run here. When "
                f"{here} is sound, on {peer}: holdover host declare-alive {here}"
            )

    @asynccontextmanager
    async def claimed(self, guest: str) -> AsyncGenerator[None, None]:
        """Claim a guest that no host has. Inside, this host alone may let it run; other hosts hear that it is
        here.

        Raises:
            ClaimRefused: Another host has it, moves it or claims it, or cannot be asked.
        """
        here = self._config().name
        if guest in self._claims:
            raise ClaimRefused(f"{here} is letting guest {guest} run already; ask again in a moment")
        claim = self._claims[guest] = Claim(here)
        try:
            await self._win(claim, guest)
            yield
        finally:
            del self._claims[guest]

    async def _win(self, claim: Claim, guest: str) -> None:
        for _ in range(_ROUNDS):
            said = await self.ask(guest, claims=True)
            verdict = claim.collect({**said, claim.host: self._places.says(guest)})
            if verdict is ClaimDecision.WON:
                return
            if verdict is ClaimDecision.LOST:
                raise ClaimRefused(lost(guest, claim.host, claim.lost_to, claim.word))
        raise ClaimRefused(
            f"guest {guest} moves from host to host at this moment; nothing was changed; try again"
        )


def lost(guest: str, here: str, host: str, word: Word) -> str:
    """Why a guest may not run on ``here``: what ``host`` has said, and what to do."""
    match word:
        case Word.HAS:
            return (
                f"guest {guest} is on {host}; nothing was changed. If it is shut down there: holdover guest "
                f"start {guest} on {here}; if it runs: holdover migrate {guest} --to {here} on {host}"
            )
        case Word.MOVES:
            return (
                f"a handover of guest {guest} is under way on {host}; nothing was changed; there holdover "
                f"handover status {guest} says what comes next"
            )
        case _:
            return (
                f"guest {guest} is being started on {host} at this moment; nothing was changed on {here}; "
                f"holdover guest start {guest} asks again"
            )
