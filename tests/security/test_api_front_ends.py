"""The front ends of an agent's API: nobody comes in who is neither an operator nor a peer."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from holdover.api.client import AgentRefused
from holdover.api.documents import PeerMessage
from holdover.api.version import API_VERSION
from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import Message
from holdover.handover.states import MessageKind
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, KEY, San, san
from tests.security.local_user import needs_root, open_folder, program_of

PREPARE = {"handover_id": "h1", "to": "host-b"}
TAKEN = Message(MessageKind.PREPARE, "h1", GUEST, 1, (LunHandover("naa.1"),))

ATTACK = """
def answer(connection, host, path, document):
    body = json.dumps(document).encode()
    head = f"POST {path} HTTP/1.1\\r\\nHost: {host}\\r\\nContent-Type: application/json\\r\\n"
    connection.sendall(f"{head}Content-Length: {len(body)}\\r\\n\\r\\n".encode() + body)
    return connection.recv(100).decode(errors="replace").split("\\r\\n")[0]

def connect_to(front_end):
    if front_end.startswith("unix:"):
        client = socket.socket(socket.AF_UNIX)
        client.connect(front_end.removeprefix("unix:"))
        return client
    host, _, port = front_end.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=600)

def any_server():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context

said = []
for front_end in json.loads(sys.argv[1]):
    for secure in (False, True):
        for path, document in json.loads(sys.argv[2]):
            try:
                client = connect_to(front_end)
                client.settimeout(600)
                if secure:
                    client = any_server().wrap_socket(client)
                said.append(answer(client, "localhost", path, document))
            except (OSError, EOFError) as error:
                said.append(type(error).__name__)
print(json.dumps(said), flush=True)
"""


@asynccontextmanager
async def a_guest_that_holds(folder: Path) -> AsyncIterator[San]:
    """Two agents; the guest holds its reservation on the first."""
    async with san(folder) as site:
        await reserved(site)
        yield site


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(600):
            await test()

    asyncio.run(limited())


async def nothing_happened(site: San) -> None:
    assert await site.registrants() == {"host-a": (KEY, True)}
    assert await site.gates() == {"host-a": "running", "host-b": "incoming"}
    for host in site.hosts.values():
        assert host.handovers.state(GUEST) is None


@needs_root
def test_another_user_of_the_host_gets_no_answer_at_any_front_end() -> None:
    async def test() -> None:
        with open_folder() as folder:
            async with a_guest_that_holds(folder) as site:
                front_ends = [
                    front_end for host in site.certified.values() for front_end in (host.api, host.address)
                ]
                message = {
                    "host": "host-a",
                    "api": "127.0.0.1:1",
                    "message": json.loads(msgspec.json.encode(TAKEN)),
                }
                wanted = [[f"/guests/{GUEST}/handover/prepare", PREPARE], ["/peer/handover", message]]
                with program_of(ATTACK, json.dumps(front_ends), json.dumps(wanted)) as attacker:
                    assert attacker.stdout is not None
                    said = json.loads(await asyncio.to_thread(attacker.stdout.readline))
                assert len(said) == len(front_ends) * 4
                assert not [each for each in said if each.startswith("HTTP/")], said
                # whoever else may connect to a Unix socket is kept out by its mode
                assert said[:4] == ["PermissionError"] * 4
                await nothing_happened(site)

    run(test)


def test_the_operators_socket_answers_no_peer(tmp_path: Path) -> None:
    async def test() -> None:
        async with a_guest_that_holds(tmp_path) as site:
            for client in site.clients.values():
                with pytest.raises(AgentRefused, match="with its certificate over TCP"):
                    await client.tell(PeerMessage(version=API_VERSION, host="host-a", message=TAKEN))
                with pytest.raises(AgentRefused, match="with its certificate over TCP"):
                    await client.peer_state("h1")
            await nothing_happened(site)

    run(test)


def test_a_handover_goes_to_a_peer_alone(tmp_path: Path) -> None:
    """The agent, which is root, connected to whatever socket it was told."""

    async def test() -> None:
        async with a_guest_that_holds(tmp_path) as site:
            came: list[str] = []

            async def victim(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                came.append("a connection")
                writer.close()

            servers = [
                await asyncio.start_unix_server(victim, tmp_path / "victim.sock"),
                await asyncio.start_server(victim, "127.0.0.1", 0),
            ]
            port = servers[1].sockets[0].getsockname()[1]
            for to in (
                f"unix:{tmp_path}/victim.sock",
                f"127.0.0.1:{port}",
                f"https://127.0.0.1:{port}",
                "",
                "/",
            ):
                with pytest.raises(AgentRefused, match="has no peer"):
                    await site.clients["host-a"].prepare(GUEST, "h1", to)
            assert came == []
            for server in servers:
                server.close()
            await nothing_happened(site)

    run(test)


def test_a_certificate_must_be_that_of_the_peer(tmp_path: Path) -> None:
    """Whoever took over a peer's address, with another certificate of that authority, hears nothing."""

    async def test() -> None:
        async with a_guest_that_holds(tmp_path) as site:
            await site.stop("host-b")
            thief = site.certified["host-a"]
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(thief.certificate, thief.key)
            heard: list[bytes] = []

            async def steal(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
                heard.append(await reader.read(1))

            port = int(site.apis["host-b"].rpartition(":")[2])
            server = await asyncio.start_server(steal, "127.0.0.1", port, ssl=context)
            with pytest.raises(AgentRefused, match="certificate is not valid for 'host-b'"):
                await site.clients["host-a"].prepare(GUEST, "h1", "host-b")
            assert [each for each in heard if each] == []
            server.close()
            await site.start("host-b")
            await nothing_happened(site)

    run(test)


async def raw(connection: AgentConnection, *headers: str, body: str = "{}") -> str:
    """The status line of an answer to a request made by hand."""
    reader, writer = await connection()
    lines = [
        f"POST /guests/{GUEST}/handover/prepare HTTP/1.1",
        *headers,
        f"Content-Length: {len(body)}",
        "",
        body,
    ]
    writer.write("\r\n".join(lines).encode())
    status = (await reader.readline()).decode().strip()
    writer.close()
    return status.removeprefix("HTTP/1.1 ")


AgentConnection = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def test_foreign_hosts_origins_and_types_are_refused_at_both_front_ends(tmp_path: Path) -> None:
    async def test() -> None:
        async with a_guest_that_holds(tmp_path) as site:
            peer = site.peer("host-a")
            host, _, port = site.apis["host-a"].rpartition(":")
            assert peer._tls is not None
            context = peer._tls.context
            await peer.close()

            async def tcp() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await asyncio.open_connection(host, int(port), ssl=context, server_hostname="host-a")

            async def unix() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                return await asyncio.open_unix_connection(site.certified["host-a"].api.removeprefix("unix:"))

            body = json.dumps(PREPARE)
            kind = "Content-Type: application/json"
            for connection, name in ((tcp, "host-a"), (unix, "localhost")):
                good = f"Host: {name}"
                for bad, refused in (
                    (("Host: evil.example", kind), "421"),
                    ((kind,), "400"),
                    ((good, kind, "Origin: https://evil.example"), "403"),
                    ((good, kind, "Origin: null"), "403"),
                    ((good, kind, "Sec-Fetch-Site: cross-site"), "403"),
                    ((good, "Content-Type: text/plain"), "415"),
                    ((good, "Content-Type: application/x-www-form-urlencoded"), "415"),
                    ((good,), "415"),
                ):
                    assert (await raw(connection, *bad, body=body)).startswith(refused), (name, bad)
            await nothing_happened(site)
            # and the same request, as an operator's command sends it, is one
            assert (await raw(unix, "Host: localhost", kind, body=body)).startswith("200")

    run(test)


def test_a_client_without_certificate_hears_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with a_guest_that_holds(tmp_path) as site:
            for front_end in site.apis.values():
                host, _, port = front_end.rpartition(":")
                for secure in (False, True):
                    heard = await asyncio.to_thread(ask_without_certificate, host, int(port), secure)
                    assert not heard.startswith(b"HTTP/"), heard
            await nothing_happened(site)

    run(test)


def ask_without_certificate(host: str, port: int, secure: bool) -> bytes:
    connection: socket.socket = socket.create_connection((host, port), timeout=600)
    try:
        if secure:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            connection = context.wrap_socket(connection)
        connection.sendall(b"GET /guests HTTP/1.1\r\nHost: host-a\r\n\r\n")
        return connection.recv(100)
    except OSError:
        return b""
    finally:
        connection.close()
