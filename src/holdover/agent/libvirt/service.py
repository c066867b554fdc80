"""The part of a host that serves libvirt: answers, the socket for questions, the list of tracked guests."""

from __future__ import annotations

from pathlib import Path

from holdover.agent.libvirt.arbiter import Arbiter
from holdover.agent.libvirt.lock_answers import LockAnswers
from holdover.agent.libvirt.tracked_guests import Refreshing, TrackedGuests
from holdover.config.agent_file import AgentConfig
from holdover.helper.listener import listen
from holdover.lock_server.server import LockServer

_MODE = 0o600


class LibvirtService:
    """The arbiter of a host, which answers other hosts, too, and the agent's lock socket, if there is one.

    Attributes:
        arbiter: What answers questions about guests.
    """

    def __init__(self, config: AgentConfig, arbiter: Arbiter, tracked: TrackedGuests | None) -> None:
        """``tracked`` is the list for the lock server; None if libvirt does not ask this host."""
        self._config = config
        self.arbiter = arbiter
        self._server: LockServer | None = None
        self._refreshing = None if tracked is None else Refreshing(tracked, self.arbiter)

    async def start(self) -> None:
        """Continue after a restart, and listen. Call this after the handovers have been restored.

        Raises:
            ListenerError: The lock socket cannot be opened.
        """
        self.arbiter.go_on()
        settings = self._config.libvirt
        if settings is None:
            return
        listener = listen(Path(settings.lock_socket), _MODE)
        self._server = LockServer(listener, settings.uid, lambda pid: LockAnswers(self.arbiter, pid))
        await self._server.start()
        if self._refreshing is not None:
            self._refreshing.start()

    def reconfigure(self, config: AgentConfig) -> None:
        """Use ``config`` from now on."""
        self._config = config
        self.arbiter.reconfigure(config)

    async def close(self) -> None:
        """Stop listening and answering."""
        if self._server is not None:
            await self._server.close()
        if self._refreshing is not None:
            await self._refreshing.close()
        await self.arbiter.close()
