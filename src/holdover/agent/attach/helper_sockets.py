"""The helper's sockets of a host: one for all guests, and one for each guest that has its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from holdover.agent.attach.attachment import Attachments
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.attach.front_end import HelperFrontEnd, ThreadFrontEnd
from holdover.config.agent_file import AgentConfig, HelperConfig
from holdover.helper.clients import Clients
from holdover.helper.connection import Peer
from holdover.helper.listener import activated, listen, resolve_group
from holdover.helper.on_loop import OnLoop
from holdover.helper.server import HelperServer
from holdover.metrics.durations import Durations
from holdover.paths.host_disks import HostDisks


class HelperSockets:
    """The sockets at which QEMU's persistent reservation manager connects, and their servers.

    Attributes:
        clients: The places of all connections at these sockets.
    """

    def __init__(
        self,
        config: AgentConfig,
        attachments: Attachments,
        maker: DeviceMaker,
        disks: HostDisks,
        clients: Clients,
        durations: Durations,
    ) -> None:
        """``durations`` counts how long commands take."""
        self.clients = clients
        self._config = config
        self._attachments = attachments
        self._maker = maker
        self._disks = disks
        self._durations = durations
        self._servers: dict[str, tuple[HelperServer, OnLoop]] = {}

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the sockets that are open."""
        return tuple(self._servers)

    @property
    def refused(self) -> int:
        """How many commands were refused."""
        return self._attachments.claims.refusals.count

    def connected(self) -> tuple[tuple[Peer, str | None], ...]:
        """The connected processes, each with the guest to which its socket belongs, if to one alone."""
        own = {guest.helper: guest.name for guest in self._config.guest}
        servers = [(server, own.get(path)) for path, (server, _) in self._servers.items()]
        return tuple((peer, name) for server, name in servers for peer in server.peers)

    def start(self) -> None:
        """Open all sockets of the agent's file.

        Raises:
            ListenerError: A socket cannot be opened.
        """
        settings = self._config.helper or HelperConfig()
        if settings.socket is not None:
            self._start(settings.socket, settings)
        for guest in self._config.guest:
            if guest.helper is not None:
                self._start(guest.helper, settings, guest.name)

    def _start(self, path: str, settings: HelperConfig, own: str | None = None) -> None:
        group = None if settings.group is None else resolve_group(settings.group)
        # systemd may open the socket that is for all guests
        given = activated(os.environ) if own is None else None
        listener = given or listen(Path(path), int(settings.mode, 8), group)
        front_end = HelperFrontEnd(self._attachments, self._maker, self._disks, own)
        on_loop = OnLoop(front_end.handle)
        loop = asyncio.get_running_loop()

        def welcome(peer: Peer) -> None:
            # This runs in a thread of the server, which may outlive the loop.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._attachments.welcome, peer, own)

        server = HelperServer(
            listener,
            ThreadFrontEnd(front_end, on_loop).handle,
            self.clients,
            welcome=welcome,
            durations=self._durations,
        )
        self._servers[path] = server, on_loop
        server.start()

    async def close(self) -> None:
        """Accept no more connections, and let the commands under way end."""
        servers = tuple(self._servers.values())
        await asyncio.gather(*(asyncio.to_thread(server.close) for server, _ in servers))
        for _, on_loop in servers:
            on_loop.close()
