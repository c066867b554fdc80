"""A question to another agent that is asked again, because it has no answer yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from holdover.api.client import AgentError, AgentRefused
from holdover.api.migration_documents import QemuAnswer

PAUSE = 0.2
"""Seconds before such a question is asked again."""


async def insist(ask: Callable[[], Awaitable[QemuAnswer]], seconds: float) -> QemuAnswer:
    """Ask, and ask again for so many seconds if no answer comes. A refusal is an answer.

    Raises:
        AgentRefused: The agent has refused.
        AgentError: No answer has come.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return await ask()
        except AgentRefused:
            raise
        except AgentError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(PAUSE)
