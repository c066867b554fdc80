"""The lock server before a real agent that comes and goes; clients that break the protocol, and too many."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.helper.listener import listen
from holdover.libvirt.connection import Call, LockClient
from holdover.libvirt.lock_protocol import CreateLockspace
from holdover.lock_server.relay import AgentAddress, Relay
from holdover.lock_server.server import LockServer
from holdover.lock_server.tracked_list import FILE_NAME, read_list
from holdover.runbook import explain
from tests.agent.hosts import GUEST
from tests.agent.libvirt.lock_site import LockSite, lock_site
from tests.agent.libvirt.test_questions import A, B, holder, on_loop, reserved


@asynccontextmanager
async def lock_servers(site: LockSite, folder: Path, seconds: float = 10.0) -> AsyncGenerator[LockSite, None]:
    """A lock server before the agent of each host; what libvirt asks on ``site`` it asks there."""
    servers = []
    for host in (A, B):
        state = Path(site.san.configs[host].state_dir)
        agent = AgentAddress(site.agent_socket(host), state / FILE_NAME, answers_within=seconds, briefly=5.0)
        path = folder / f"{host}.virtlockd"
        servers.append(LockServer(listen(path), os.getuid(), lambda pid, agent=agent: Relay(agent, pid)))  # type: ignore[misc]
        await servers[-1].start()
        site.sockets[host] = path
    try:
        yield site
    finally:
        for server in servers:
            await server.close()


@on_loop
async def test_a_migration_goes_through_the_lock_servers(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as agents, lock_servers(agents, tmp_path) as site:
        leaves = await reserved(site)
        arrives = await site.begin(B, incoming=True)
        assert arrives.refused == ""
        await site.stops(A)
        assert await site.resumes(B) == ""
        assert await holder(site) == B
        assert "runs on host-b" in await site.resumes(A)
        await leaves.end()
        await site.reaches(A, "gone")


@on_loop
async def test_while_the_agent_is_down_its_guests_wait_and_the_others_start(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as agents, lock_servers(agents, tmp_path, 1.0) as site:
        await reserved(site)
        file = Path(site.san.configs[A].state_dir) / FILE_NAME
        found = read_list(file)
        assert found is not None
        assert set(found.guests) == {GUEST}
        await site.san.stop(A)
        assert (await site.begin(A, name="web")).refused == ""
        assert await site.ask(A, name="web") == ""
        refused = await site.resumes(A)
        assert f"guest {GUEST} may have a reservation" in refused
        assert "nobody answers at" in refused
        assert "systemctl status holdover-agent" in refused
        # without the list, what has a scsi-block needs the agent, and nothing else does
        file.unlink()
        block = ("-device", "scsi-block,drive=d")
        assert (await site.begin(A, name="db9", options=block)).refused == ""
        assert "db9" in await site.ask(A, name="db9")
        assert (await site.begin(A, name="web")).refused == ""
        assert await site.ask(A, name="web") == ""


@pytest.mark.provokes("libvirt-refused")
@on_loop
async def test_a_guest_that_was_refused_runs_when_its_agent_is_started(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as agents, lock_servers(agents, tmp_path, 1.0) as site:
        await reserved(site)
        await site.san.stop(A)
        refused = await site.resumes(A)
        assert "so the Holdover agent must say whether it may run here: nobody answers at" in refused
        told = explain(refused)
        assert told is not None
        assert "`systemctl start holdover-agent`, then try again" in told
        await site.san.start(A)
        assert await site.resumes(A) == ""
        assert await holder(site) == A


@on_loop
async def test_an_agent_that_comes_back_in_time_answers(tmp_path: Path) -> None:
    async with lock_site(tmp_path) as agents, lock_servers(agents, tmp_path) as site:
        await reserved(site)
        await site.san.stop(A)
        asking = asyncio.ensure_future(site.resumes(A))
        await asyncio.sleep(0.1)
        await site.san.start(A)
        assert await asking == ""


@on_loop
async def test_a_qemu_that_began_without_the_agent_is_asked_about_later(tmp_path: Path) -> None:
    """The agent hears of it when libvirt asks whether the guest may run, and prepares the handover then."""
    async with lock_site(tmp_path) as agents, lock_servers(agents, tmp_path) as site:
        await reserved(site)
        await site.san.stop(B)
        (Path(site.san.configs[B].state_dir) / FILE_NAME).unlink(missing_ok=True)
        assert (await site.begin(B, incoming=True)).refused == ""
        await site.san.start(B)
        assert await site.ask(A) == ""
        # the guest had stopped before anybody prepared: nothing says so to the source again
        assert "has not told" in await site.ask(B)
        await site.stops(A)
        assert await site.ask(B) == ""
        assert await holder(site) == B


async def _ask_lockspace(path: Path) -> bool:
    """Whether the server at a path still answers."""
    reader, writer = await asyncio.open_unix_connection(path)
    client = LockClient()
    writer.write(client.call(CreateLockspace("/x")))
    replies = client.receive(await reader.read(65536))
    writer.close()
    return bool(replies) and not replies[0].error


class _Yes:
    async def answer(self, call: Call, waits: object) -> str:
        return ""

    async def close(self) -> None:
        pass


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_bytes_are_answered_or_end_the_connection(pieces: list[bytes]) -> None:
    async def run() -> None:
        path = Path(f"/tmp/holdover-lock-{os.getpid()}.sock")
        server = LockServer(listen(path), os.getuid(), lambda _: _Yes())
        await server.start()
        try:
            reader, writer = await asyncio.open_unix_connection(path)
            for piece in pieces:
                writer.write(piece)
            writer.write_eof()
            await reader.read()
            writer.close()
            assert await _ask_lockspace(path)
        finally:
            await server.close()

    asyncio.run(run())


@pytest.mark.parametrize("uid_is_mine", [False, True])
def test_others_than_libvirtd_and_too_many_are_turned_away(tmp_path: Path, uid_is_mine: bool) -> None:
    async def run() -> None:
        path = tmp_path / "lock.sock"
        uid = os.getuid() + (0 if uid_is_mine else 1)
        server = LockServer(listen(path), uid, lambda _: _Yes(), most=2)
        await server.start()
        clients = [await asyncio.open_unix_connection(path) for _ in range(5)]
        stay = 2 if uid_is_mine else 0
        for reader, _ in clients[stay:]:
            assert await reader.read() == b""
        assert server.connections == stay
        for reader, writer in clients[:stay]:
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
        assert not uid_is_mine or await _ask_lockspace(path)
        await server.close()

    asyncio.run(run())


def test_a_client_that_says_nothing_is_hung_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        monkeypatch.setattr("holdover.lock_server.server._BEGIN_SECONDS", 0.05)
        path = tmp_path / "lock.sock"
        server = LockServer(listen(path), os.getuid(), lambda _: _Yes())
        await server.start()
        for said in (b"", LockClient().call(CreateLockspace("/x"))[:9]):
            reader, writer = await asyncio.open_unix_connection(path)
            writer.write(said)
            assert await reader.read() == b""
            writer.close()
        await server.close()

    asyncio.run(run())
