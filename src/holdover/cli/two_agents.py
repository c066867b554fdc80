"""The two agents of a handover, as the command line names them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from holdover.api.client import AgentClient
from holdover.cli.asking import Asking
from holdover.config.agent_file import ConfigError, parse_api


@dataclass(frozen=True, slots=True)
class TwoAgents:
    """The agents of source and destination.

    Attributes:
        source: The source's agent.
        destination: The destination's agent; None if its address is not known.
        to: The name by which the source knows the destination; empty if it does not know it.
    """

    source: AgentClient
    destination: AgentClient | None
    to: str

    @property
    def asked_destination(self) -> AgentClient | None:
        """The destination's agent, if the command itself must ask it.

        A destination that the source knows by name is asked by the source.
        """
        return None if self.to else self.destination


@asynccontextmanager
async def two_agents(asking: Asking, source: str, destination: str) -> AsyncGenerator[TwoAgents, None]:
    """Clients of both agents. ``destination`` is an address, or the name of a peer of the source.

    Raises:
        ConfigError: An address, or a file of ``asking``, cannot be used; or the source has no such peer.
        AgentError: The source's agent does not answer; it is asked for its peers.
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
    """The name by which the source knows a destination, and its address. The name may be empty.

    Raises:
        ConfigError: It is neither a peer of the source nor an address; the message lists the peers.
    """
    state = await source.guests()
    for peer in state.peers:
        if destination in (peer.name, peer.api):
            return peer.name, peer.api
    if _is_address(destination):
        return "", destination
    known = ", ".join(peer.name for peer in state.peers)
    there_are = f"its peers are {known}" if known else "it has no [[peer]]"
    raise ConfigError(f"--to {destination}: {state.host} has no peer of that name; {there_are}")


def _is_address(text: str) -> bool:
    try:
        parse_api(text, "--to")
    except ConfigError:
        return False
    return True


def _where_possible(asking: Asking, api: str) -> list[AgentClient]:
    """A client for a trace alone; none if the address that the source knows cannot be used here."""
    try:
        return asking.clients(api)
    except ConfigError:
        return []
