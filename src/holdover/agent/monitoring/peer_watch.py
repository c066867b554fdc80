"""Whether the peer hosts answer, and how far their clocks are from ours: asked twice a minute."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from holdover.api.client import AgentError, AgentRefused
from holdover.api.peer_hosts import Peers, UnknownPeer
from holdover.config.agent_file import ConfigError

_EVERY_SECONDS = 30.0
_LIMIT_SECONDS = 10.0
_NO_HANDOVER = "-"
"""A handover id that no handover has; the answer still has the version and the time of the peer."""


@dataclass(frozen=True, slots=True)
class PeerReport:
    """What is known of a peer.

    Attributes:
        reachable: Whether it answered the last question.
        skew: How many seconds its clock is ahead of ours; None if it has not said its time.
        problem: Why it is not reachable.
    """

    reachable: bool
    skew: float | None = None
    problem: str = ""


class PeerWatch:
    """Asks every peer from time to time. The owner closes it."""

    def __init__(
        self,
        peers: Peers,
        names: Callable[[], tuple[str, ...]],
        every: float = _EVERY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``names`` returns the names of the peers of now; ``every`` is in seconds."""
        self._peers = peers
        self._names = names
        self._every = every
        self._clock = clock
        self._reports: dict[str, PeerReport] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def reports(self) -> Mapping[str, PeerReport]:
        """The newest report of each peer that was asked."""
        return self._reports

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.ensure_future(self._watch())

    async def _watch(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(self._every)

    async def ask(self) -> None:
        """Ask all peers now."""
        names = self._names()
        reports = await asyncio.gather(*(self._ask(name) for name in names))
        self._reports = dict(zip(names, reports, strict=True))

    async def _ask(self, name: str) -> PeerReport:
        began = self._clock()
        try:
            async with asyncio.timeout(_LIMIT_SECONDS):
                answer = await self._peers.client(name).peer_state(_NO_HANDOVER)
        except AgentRefused as error:
            return PeerReport(True, problem=str(error))
        except TimeoutError:
            return PeerReport(False, problem=f"no answer within {_LIMIT_SECONDS:g} s")
        except (AgentError, ConfigError, UnknownPeer) as error:
            return PeerReport(False, problem=str(error))
        if not answer.clock:
            return PeerReport(True)
        return PeerReport(True, answer.clock - (began + self._clock()) / 2)

    async def close(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
