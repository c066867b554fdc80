"""A command's questions to one agent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from holdover.api.client import AgentClient, AgentError
from holdover.cli.asking import Asking
from holdover.cli.errors import refuse
from holdover.config.agent_file import ConfigError

T = TypeVar("T")


async def with_agent(api: str, asking: Asking, ask: Callable[[AgentClient], Awaitable[T]]) -> T:
    """The answer to what ``ask`` asks the agent at ``api``. Closes the client.

    Raises:
        ConfigError: The address or a file cannot be used.
        AgentError: What ``ask`` raises.
    """
    client = asking.client(api)
    try:
        return await ask(client)
    finally:
        await client.close()


def ask_agent(api: str, asking: Asking, ask: Callable[[AgentClient], Awaitable[T]]) -> T:
    """As `with_agent`; an error ends the command, with 1 if it is the agent's and 2 if it is the user's."""
    try:
        return asyncio.run(with_agent(api, asking, ask))
    except ConfigError as error:
        refuse(str(error))
    except AgentError as error:
        refuse(str(error), 1)
