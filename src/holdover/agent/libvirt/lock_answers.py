"""What answers at the agent's lock socket: the arbiter, asked by libvirt or by the lock server."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from holdover.agent.libvirt.arbiter import Arbiter
from holdover.libvirt.connection import Call
from holdover.libvirt.lock_protocol import OWNER_ASKS, AcquireResource, Register, ReleaseResource

log = structlog.get_logger()


class LockAnswers:
    """The answers to one connection."""

    def __init__(self, arbiter: Arbiter, pid: int) -> None:
        """``pid`` is the process that asks."""
        self._arbiter = arbiter
        self._pid = pid

    async def answer(self, call: Call, waits: Callable[[], bool]) -> str:
        """The arbiter's answer to a call."""
        owner = call.owner
        if owner is None:
            return ""
        try:
            match call.request:
                case Register():
                    begins = owner.pid == self._pid or bool(owner.flags & OWNER_ASKS)
                    ask = self._arbiter.begins if begins else self._arbiter.may_run
                    return await ask(owner, waits)
                case AcquireResource() | ReleaseResource():
                    await self._arbiter.observe(owner, runs=isinstance(call.request, AcquireResource))
        except Exception as error:
            log.error("A question of libvirt could not be answered.", guest=owner.name, exc_info=error)
            return f"guest {owner.name}: the Holdover agent has failed: {error} (its log says more)"
        return ""

    async def close(self) -> None:
        """The connection has ended."""
