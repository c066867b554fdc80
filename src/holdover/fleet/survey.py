"""Asks the agents of a site. The operator's certificate, or the Unix socket, decides which agents answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.documents import GuestRegistrants, HandoverState, HostState
from holdover.fleet.picture import HostAnswer

_AT_ONCE = 16
"""How many questions about handovers one agent gets at the same time."""


class Survey:
    """The agents of a site: those with the given addresses, and all peers that they name.

    A peer is asked only where the operator has a certificate, because peers are reached over TCP.
    """

    def __init__(
        self, apis: Sequence[str], connect: Callable[[str, str | None], AgentClient], *, peers: bool
    ) -> None:
        """``connect`` makes the client for an address and, if it is known, the name of the host there.
        ``peers``: whether the peers of these agents are asked too.
        """
        self._connect = connect
        self._peers = peers
        self._clients: dict[str, AgentClient] = {}
        self._names: dict[str, str] = {}
        for api in apis:
            self._add(api, None)

    def _add(self, api: str, name: str | None) -> None:
        if api not in self._clients:
            self._clients[api] = self._connect(api, name)
            self._names[api] = name or ""

    async def client(self, host: str) -> AgentClient:
        """The client of a host's agent.

        Raises:
            AgentError: No agent says that it is this host.
        """
        if host not in self._names.values():
            await self.ask()
        for api, name in self._names.items():
            if name == host:
                return self._clients[api]
        raise AgentError(f"no agent says that it is {host!r}")

    async def ask(self) -> list[HostAnswer]:
        """What each agent says now. An agent that does not answer has an answer that says so."""
        answers = list(await asyncio.gather(*(self._ask(api) for api in self._clients)))
        if self._peers:
            before = set(self._clients)
            self._meet(each.state for each in answers if each.state is not None)
            new = [api for api in self._clients if api not in before]
            answers += await asyncio.gather(*(self._ask(api) for api in new))
        return answers

    def _meet(self, states: Iterable[HostState]) -> None:
        known = set(self._names.values())
        for state in states:
            for peer in state.peers:
                if peer.name not in known:
                    self._add(peer.api, peer.name)

    async def _ask(self, api: str) -> HostAnswer:
        client = self._clients[api]
        try:
            state, migrations = await asyncio.gather(client.guests(), client.migrations())
            handovers = await self._handovers(client, state)
        except AgentError as error:
            return HostAnswer(api, self._names[api], problem=str(error))
        self._names[api] = state.host
        return HostAnswer(api, state.host, state, migrations.migrations, handovers)

    async def _handovers(self, client: AgentClient, state: HostState) -> tuple[HandoverState, ...]:
        """The open handovers; one that ends meanwhile is left out."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def ask(guest: str) -> HandoverState | None:
            async with turn:
                try:
                    return await client.handover(guest)
                except AgentRefused:
                    return None

        names = [guest.name for guest in state.guests if guest.handover_id is not None]
        found = await asyncio.gather(*map(ask, names))
        return tuple(each for each in found if each is not None)

    async def timeline(self, guest: str) -> list[HandoverState]:
        """The newest handover of a guest, as each host knows it that has one."""

        async def ask(client: AgentClient) -> HandoverState | None:
            try:
                return await client.handover(guest)
            except AgentError:
                return None

        found = await asyncio.gather(*map(ask, self._clients.values()))
        return [each for each in found if each is not None]

    async def registrants(self, guest: str, host: str) -> GuestRegistrants:
        """What the LUNs of a guest say now, asked on one host.

        Raises:
            AgentError: That host's agent cannot be asked.
        """
        return await (await self.client(host)).registrants(guest)

    async def close(self) -> None:
        """Close the connections to the agents."""
        await asyncio.gather(*(client.close() for client in self._clients.values()))
