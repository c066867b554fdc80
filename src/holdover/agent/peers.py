"""The hosts that may hand over guests to this one, and to which it may hand over."""

from __future__ import annotations

from collections.abc import Sequence

from holdover.agent.client import AgentClient
from holdover.agent.config import PeerConfig
from holdover.agent.tls import ClientTls, Credentials

__all__ = ["Peers", "UnknownPeer"]


class UnknownPeer(LookupError):
    """No [[peer]] has that name: says which there are."""


class Peers:
    """The [[peer]]s of an agent, by the names in their certificates."""

    def __init__(self, host: str, peers: Sequence[PeerConfig], credentials: Credentials | None) -> None:
        """``host`` is this one's name; ``credentials`` are what it shows to peers that want to know."""
        self._host = host
        self._peers = {peer.name: peer for peer in peers}
        self._credentials = credentials
        self._clients: dict[str, AgentClient] = {}

    def client(self, name: str) -> AgentClient:
        """The API of a peer; always the same client, whose connections stay open.

        The other side must show a certificate of that very name, unless it is asked plainly on loopback.

        Raises:
            UnknownPeer: There is none of that name.
        """
        if name not in self._clients:
            peer = self._peers.get(name)
            if peer is None:
                raise UnknownPeer(
                    f"{self._host} has no peer {name!r}; it has: {', '.join(self._peers) or 'none'}; to add "
                    f'it: [[peer]] name = "{name}", api = "HOST:PORT" in the file of the agent there'
                )
            tls = ClientTls(self._credentials.client, name) if self._credentials is not None else None
            self._clients[name] = AgentClient(peer.api, tls=tls)
        return self._clients[name]

    def may_hand_over(self, name: str | None) -> bool:
        """Whether a guest may come from the host that a certificate names, or be asked for by it.

        None (see `holdover.agent.tls.peer_name`) is this machine itself, where nobody can be told apart.
        """
        return name is None or name in self._peers

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
