"""The agents between which a guest is handed over, as the command line names them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from holdover.agent.client import AgentClient
from holdover.agent.config import ConfigError, parse_api
from holdover.cli.asking import Asking

__all__ = ["TwoAgents", "called", "two_agents"]


@dataclass(frozen=True, slots=True)
class TwoAgents:
    """Both agents.

    Attributes:
        source: That of the host that the guest leaves.
        destination: That of the other; None where nothing tells its address.
        to: The name of a peer of the source, where the destination was given by that; else empty.
    """

    source: AgentClient
    destination: AgentClient | None
    to: str

    @property
    def asked_destination(self) -> AgentClient | None:
        """The destination's agent, if the handover needs it: one that the source knows by name is its own
        to ask."""
        return None if self.to else self.destination


@asynccontextmanager
async def two_agents(asking: Asking, source: str, destination: str) -> AsyncGenerator[TwoAgents, None]:
    """Clients of both; ``destination`` is an address, or the name of a peer of the source.

    Raises:
        ConfigError: An address, or a file of ``asking``, cannot be used.
        AgentError: The source had to be asked for its peers, and does not answer.
    """
    clients: list[AgentClient] = []
    try:
        clients += asking.clients(source)
        to, api = await called(clients[0], destination)
        if api and not to:
            clients += asking.clients(api)
        elif api:
            clients += _where_possible(asking, api)
        yield TwoAgents(clients[0], clients[1] if len(clients) > 1 else None, to)
    finally:
        for client in clients:
            await client.close()


async def called(source: AgentClient, destination: str) -> tuple[str, str]:
    """The name by which the source knows a destination, and its address; one of them may be empty."""
    if _is_address(destination):
        return "", destination
    for peer in (await source.guests()).peers:
        if peer.name == destination:
            return peer.name, peer.api
    # the source's agent says which peers it has
    return destination, ""


def _is_address(text: str) -> bool:
    try:
        parse_api(text, "--to")
    except ConfigError:
        return False
    return True


def _where_possible(asking: Asking, api: str) -> list[AgentClient]:
    """For a trace alone, so its address as the source knows it may be of no use here."""
    try:
        return asking.clients(api)
    except ConfigError:
        return []
