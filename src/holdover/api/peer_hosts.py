"""The peer hosts: this host may hand over guests to them, and they may hand over guests to this host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from holdover.api.client import AgentClient
from holdover.api.documents import HostState, PeerMessage, PeerState
from holdover.api.libvirt_documents import GuestAnswer, GuestQuestion
from holdover.api.migration_documents import QemuAnswer, QemuRequest, SendRequest
from holdover.api.placement_documents import Declaration, PlaceAnswer, PlaceQuestion
from holdover.config.agent_file import PeerConfig
from holdover.handover.protocol import Answer
from holdover.pki.tls import ClientTls, Credentials


class PeerClient(Protocol):
    """What one agent asks of another. `AgentClient` says what each method raises."""

    @property
    def api(self) -> str:
        """The address of the API."""
        ...

    async def tell(self, message: PeerMessage) -> Answer: ...
    async def peer_state(self, handover_id: str) -> PeerState: ...
    async def guests(self) -> HostState: ...
    async def qemu(self, request: QemuRequest) -> QemuAnswer: ...
    async def ask_about(self, question: GuestQuestion) -> GuestAnswer: ...
    async def declare(self, declaration: Declaration) -> Declaration: ...
    async def place(self, question: PlaceQuestion) -> PlaceAnswer: ...
    async def send_guest(self, request: SendRequest) -> None: ...
    async def close(self) -> None: ...


Connect = Callable[[PeerConfig], PeerClient]
"""Makes the client of a peer's API."""


class UnknownPeer(LookupError):
    """No [[peer]] has that name; the message lists all names."""


class Peers:
    """The [[peer]]s of an agent, by the names in their certificates."""

    def __init__(
        self,
        host: str,
        peers: Sequence[PeerConfig],
        credentials: Credentials | None,
        connect: Connect | None = None,
    ) -> None:
        """``host`` is the name of this host. ``credentials`` are what this host shows to peers. ``connect``
        makes the clients; None: over TLS."""
        self._host = host
        self._peers = {peer.name: peer for peer in peers}
        self._credentials = credentials
        self._connect = connect or self._over_tls
        self._clients: dict[str, PeerClient] = {}

    def client(self, name: str) -> PeerClient:
        """The API client of a peer: always the same object, whose connections stay open.

        The peer must show a certificate of that name.

        Raises:
            UnknownPeer: No peer has that name.
        """
        if name not in self._clients:
            peer = self._peers.get(name)
            if peer is None:
                raise UnknownPeer(
                    f"{self._host} has no peer {name!r}; it has: {', '.join(self._peers) or 'none'}; to add "
                    f'it: [[peer]] name = "{name}", api = "HOST:PORT" in the file of the agent there'
                )
            self._clients[name] = self._connect(peer)
        return self._clients[name]

    def _over_tls(self, peer: PeerConfig) -> AgentClient:
        tls = None if self._credentials is None else self._tls_of(self._credentials, peer)
        return AgentClient(peer.api, tls=tls)

    @staticmethod
    def _tls_of(credentials: Credentials, peer: PeerConfig) -> ClientTls:
        return ClientTls(credentials.client, peer.name, credentials.stream)

    def reconfigure(self, peers: Sequence[PeerConfig]) -> list[asyncio.Task[None]]:
        """Replace the peers from now on. The returned tasks close the connections to hosts that are gone."""
        before, self._peers = self._peers, {peer.name: peer for peer in peers}
        gone = [name for name in self._clients if self._peers.get(name) != before[name]]
        return [asyncio.ensure_future(self._clients.pop(name).close()) for name in gone]

    async def close(self) -> None:
        """Close all connections to peers."""
        for client in self._clients.values():
            await client.close()
        self._clients.clear()
