"""An agent in the process of a test."""

from __future__ import annotations

import asyncio

from holdover.agent.daemon import serve
from holdover.agent.host import Host
from holdover.config.agent_file import DEFAULT_STATE_DIR, AgentConfig
from holdover.journal.memory import MemoryJournal


def served(config: AgentConfig) -> tuple[asyncio.Task[None], asyncio.Future[Host]]:
    """The task of an agent, and its host when it is ready. If the agent ends before, awaiting the host
    raises why."""
    # another worker's agent may have that folder
    assert config.state_dir != DEFAULT_STATE_DIR, "give the agent a state_dir of its own"
    ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(config, ready.set_result, MemoryJournal()))

    def ended(done: asyncio.Task[None]) -> None:
        if not ready.done():
            ready.set_exception(done.exception() or RuntimeError("the agent ended"))

    task.add_done_callback(ended)
    return task, ready
