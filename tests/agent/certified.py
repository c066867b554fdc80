"""Authorities in a folder, and agents whose API asks for certificates, over real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdover.agent.daemon import serve
from holdover.agent.host import Host
from holdover.config.agent_file import DEFAULT_STATE_DIR, AgentConfig, ApiConfig, PeerConfig
from holdover.journal.journal import JournalLike
from holdover.journal.memory import MemoryJournal
from holdover.network import event_loop
from holdover.pki import authority
from holdover.pki.tls import ClientTls, Credentials, TlsFiles
from tests.rig.processes import free_port

NOW = datetime.datetime.now(datetime.UTC)
HOST = "host-a"


@dataclass(frozen=True)
class Authority:
    """A small authority that has been there for a year."""

    folder: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        authority.init(folder, 3650, NOW - datetime.timedelta(days=365))
        return cls(folder)

    def issue(self, name: str, *, days: int = 30, age: int = 0) -> TlsFiles:
        """A certificate that was made ``age`` days ago and good for ``days``; replaces one of that name."""
        made_at = NOW - datetime.timedelta(days=age)
        made = authority.issue(name, self.folder, ["127.0.0.1"], days, made_at, replace=True)
        return TlsFiles(made.certificate, made.key, made.ca)

    def client(self, name: str, server_name: str | None = None, *, days: int = 30, age: int = 0) -> ClientTls:
        """Somebody of that name, who trusts this authority."""
        return ClientTls(Credentials(self.issue(name, days=days, age=age)).client, server_name)


_FORGETFUL = MemoryJournal()
"""Stands for a journal in memory, a new one for each agent."""


@asynccontextmanager
async def running(
    config: AgentConfig, journal: JournalLike | None = _FORGETFUL
) -> AsyncGenerator[Host, None]:
    """An agent in this process; ``journal`` None: the journal that its configuration names."""
    # another worker's agent may have that folder
    assert config.state_dir != DEFAULT_STATE_DIR, "give the agent a state_dir of its own"
    ready: asyncio.Future[Host] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(
        serve(config, ready.set_result, MemoryJournal() if journal is _FORGETFUL else journal)
    )
    either: list[asyncio.Future[Any]] = [ready, task]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            task.result()
        yield await ready
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def secured(files: TlsFiles, *, also: str | None = None) -> AgentConfig:
    """An agent on a free port, with admin-1 as its operator and host-b as its peer."""
    https = f"127.0.0.1:{free_port()}"
    return AgentConfig(
        name=HOST,
        initiator="iqn.2026-11.org.example:host-a",
        state_dir=str(files.certificate.with_name(f"{HOST}.state")),
        api=ApiConfig(
            listen=https if also is None else (https, also),
            certificate=str(files.certificate),
            key=str(files.key),
            ca=str(files.ca),
            operators=("admin-1",),
        ),
        peer=(PeerConfig(name="host-b", api="127.0.0.1:9"),),
    )


def within(seconds: float, test: Callable[[], Awaitable[None]]) -> None:
    """Run a test, on the loop that agents have, that may not last for ever."""

    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await test()

    event_loop.run(limited())
