"""The client of the API: addresses, connections that stay open, and what it says when it fails."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdover.api.client import AgentClient, AgentError
from holdover.config.agent_file import ConfigError
from holdover.pki.tls import ClientTls
from tests.agent.certified import Authority, running, secured, within
from tests.rig.processes import free_port

TLS = ClientTls(ssl.create_default_context())


@pytest.mark.parametrize(
    ("api", "tls", "shown"),
    [
        ("127.0.0.1:7101", TLS, "127.0.0.1:7101"),
        ("https://127.0.0.1:7101/", TLS, "127.0.0.1:7101"),
        ("localhost:7101", TLS, "localhost:7101"),
        ("https://host-b.example:7411", TLS, "host-b.example:7411"),
        ("[2001:db8::1]:7411", TLS, "[2001:db8::1]:7411"),
        ("unix:/run/holdover/api.sock", None, "unix:/run/holdover/api.sock"),
    ],
)
def test_addresses(api: str, tls: ClientTls | None, shown: str) -> None:
    assert AgentClient(api, tls=tls).api == shown


@pytest.mark.parametrize(
    ("api", "tls", "message"),
    [
        ("host-b.example:7411", None, "give --certificate, --key and --ca"),
        ("127.0.0.1:7411", None, "give --certificate, --key and --ca .* unix:/PATH"),
        ("http://127.0.0.1:7411", TLS, "does not speak plain HTTP over TCP; write 127.0.0.1:7411"),
        ("host-b", TLS, "'host-b' is not HOST:PORT"),
        ("unix:api.sock", None, "must be absolute"),
    ],
)
def test_addresses_that_cannot_be_asked(api: str, tls: ClientTls | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AgentClient(api, tls=tls)


@dataclass
class Forwarder:
    """Passes connections on, and counts them."""

    to: int
    seen: int = 0

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.seen += 1
        there, back = await asyncio.open_connection("127.0.0.1", self.to)
        with contextlib.suppress(OSError):
            await asyncio.gather(self.pump(reader, back), self.pump(there, writer))

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
        writer.close()


@asynccontextmanager
async def forwarder(to: int) -> AsyncGenerator[tuple[Forwarder, int], None]:
    made = Forwarder(to)
    server = await asyncio.start_server(made.pass_on, "127.0.0.1", 0)
    yield made, server.sockets[0].getsockname()[1]
    server.close()


def test_requests_share_one_connection_however_long_they_wait(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        config = secured(authority.issue("host-a"))
        port = int(str(config.api.addresses[0]).rpartition(":")[2])
        async with running(config), forwarder(port) as (between, front):
            client = AgentClient(f"127.0.0.1:{front}", tls=authority.client("admin-1"))
            for _ in range(20):
                await client.guests()
            await asyncio.sleep(6)  # uvicorn's own limit for an idle connection is 5 s
            await client.guests()
            assert between.seen == 1
            await client.close()

    within(600, test)


def test_an_agent_that_starts_anew_is_asked_again(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        config = secured(authority.issue("host-a"))
        client = AgentClient(str(config.api.addresses[0]), tls=authority.client("admin-1"))
        for _ in range(2):
            async with running(config):
                assert (await client.guests()).host == "host-a"
        with pytest.raises(AgentError, match=r"cannot connect, .*is it running"):
            await client.guests()
        await client.close()

    within(600, test)


def test_who_does_not_answer_is_named() -> None:
    async def test() -> None:
        silent = await asyncio.start_server(lambda _r, _w: asyncio.sleep(60), "127.0.0.1", 0)
        port = silent.sockets[0].getsockname()[1]
        client = AgentClient(f"127.0.0.1:{port}", timeout=0.2, tls=TLS)
        with pytest.raises(AgentError, match=f"127.0.0.1:{port}: no answer within 0.2 s; .* is not known"):
            await client.commit("db1", "h")
        await client.close()
        silent.close()

    within(600, test)


def test_who_is_no_agent_is_named(tmp_path: Path) -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 2\r\n\r\nhi")
        await writer.drain()

    async def test() -> None:
        server = await asyncio.start_unix_server(other, tmp_path / "other.sock")
        client = AgentClient(f"unix:{tmp_path}/other.sock")
        with pytest.raises(AgentError, match="is not a Holdover agent"):
            await client.guests()
        await client.close()
        server.close()

    within(600, test)


def test_a_socket_without_an_agent_is_named(tmp_path: Path) -> None:
    async def test() -> None:
        client = AgentClient(f"unix:{tmp_path}/api.sock")
        with pytest.raises(AgentError, match=r"unix:.*api\.sock: .*is it running"):
            await client.guests()
        await client.close()
        client = AgentClient(f"127.0.0.1:{free_port()}", tls=TLS)
        with pytest.raises(AgentError, match="cannot connect"):
            await client.guests()
        await client.close()

    within(600, test)
