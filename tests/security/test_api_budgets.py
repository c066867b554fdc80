"""What a connection to an agent's API may take: bytes and time of a header, requests at once, descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from holdover.agent import api_server
from holdover.api import request_bounds
from holdover.api.request_bounds import LARGEST_BODY
from holdover.network.tls_handshake import Handshakes
from holdover.pki.authority import issue
from holdover.pki.tls import ClientTls, Credentials, TlsFiles
from tests.agent.hosts import GUEST, READ, San, san
from tests.rig.processes import Rig
from tests.security.local_user import needs_root, program_of

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

ENDLESS = 64 << 20
"""Bytes of a header, of which 21 s of the event loop's time came at 847e57f."""


async def connect(site: San, files: TlsFiles | None = None) -> Connection:
    """To the front end of another host's agent, with its certificate or another one."""
    peer = site.certified["host-b"]
    credentials = Credentials(files or TlsFiles(peer.certificate, peer.key, peer.ca))
    context = ClientTls(credentials.client).context
    host, _, port = site.apis["host-a"].rpartition(":")
    return await asyncio.open_connection(host, int(port), ssl=context, server_hostname="host-a")


async def status_of(reader: asyncio.StreamReader) -> str:
    """Of the answer to all that was sent; empty where the connection ended without one."""
    with contextlib.suppress(ConnectionError):
        return (await reader.readline()).decode().strip().removeprefix("HTTP/1.1 ")
    return ""


def attacked(tmp_path: Path, attack: Callable[[San], Awaitable[None]]) -> None:
    """Attack the agent of host-a, whose guest reads all along, and whose operator is answered at the end."""

    async def test() -> None:
        async with asyncio.timeout(600), san(tmp_path) as site:
            guest = site.guest_on("host-a")
            await guest.must(READ)
            reading = asyncio.create_task(read_on(guest.must))
            await attack(site)
            assert not reading.done()
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            assert (await site.clients["host-a"].guest(GUEST)).devices[0].gate == "running"

    asyncio.run(test())


async def read_on(must: Callable[..., Awaitable[object]]) -> None:
    while True:
        await must(READ)


def test_a_header_without_end_is_not_read(tmp_path: Path) -> None:
    async def attack(site: San) -> None:
        for beginning in (
            b"GET /guests HTTP/1.1\r\nHost: host-a\r\nX: ",
            b"GET /",
            b"GET /guests HTTP/1.1\r\n",
        ):
            reader, writer = await connect(site)
            writer.write(beginning)
            sent = 0
            piece = b"x: " + b"a" * 61 + b"\r\n" if beginning.endswith(b"\n") else b"a" * 66
            try:
                while sent < ENDLESS and not reader.at_eof():
                    writer.write(piece * 1000)
                    await writer.drain()
                    sent += len(piece) * 1000
            except ConnectionError:
                pass
            assert sent < ENDLESS, beginning
            assert (await status_of(reader))[:3] in ("431", ""), beginning
            writer.close()

    attacked(tmp_path, attack)


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (b"X: " + b"a" * request_bounds.HEADER_BYTES, b"", "431"),
        (b"Transfer-Encoding: chunked", b"1\r\n{\r\n0\r\nTrailer: " + b"a" * 100_000, "411"),
        (b"Content-Length: %d" % (LARGEST_BODY + 1), b"{", "413"),
        (b"Content-Length: %d" % (1 << 63), b"{", "4"),
    ],
    ids=["long header", "chunks with an endless trailer", "long body", "endless body"],
)
def test_what_is_too_long_is_refused_before_it_comes(
    tmp_path: Path, headers: bytes, body: bytes, status: str
) -> None:
    async def attack(site: San) -> None:
        reader, writer = await connect(site)
        kind = b"Host: host-a\r\nContent-Type: application/json\r\n"
        writer.write(b"POST /peer/handover HTTP/1.1\r\n" + kind + headers + b"\r\n\r\n" + body)
        assert (await status_of(reader)).startswith(status)
        with contextlib.suppress(ConnectionError):
            await reader.read()  # the agent closes
        writer.close()

    attacked(tmp_path, attack)


HEAD = b"POST /peer/handover HTTP/1.1\r\nHost: host-a\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("before", "sent", "status"),
    [
        (b"", b"", "408"),
        (b"", b"GET /guests HTTP/1.1\r\nHost: ho", "408"),
        (b"GET /guests HTTP/1.1\r\nHost: host-a\r\n\r\n", b"GET /gue", "408"),
        (b"", HEAD + b"Content-Length: 9\r\n\r\n{", ""),
    ],
    ids=["nothing", "half a header", "half of the second header", "half a body"],
)
def test_a_request_that_does_not_come_to_its_end_holds_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes, sent: bytes, status: str
) -> None:
    monkeypatch.setattr(request_bounds, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(request_bounds, "REQUEST_SECONDS", 0.5)

    async def attack(site: San) -> None:
        reader, writer = await connect(site)
        if before:
            writer.write(before)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
        writer.write(sent)
        assert (await status_of(reader))[:3] == status
        with contextlib.suppress(ConnectionError):
            await reader.read()  # until the agent closes
        writer.close()

    attacked(tmp_path, attack)


def test_requests_come_one_by_one(tmp_path: Path) -> None:
    """Ten thousand in one write, of which each would have taken memory and a place in the queue."""

    async def attack(site: San) -> None:
        reader, writer = await connect(site)
        writer.write(b"GET /guests HTTP/1.1\r\nHost: host-a\r\n\r\n" * 10_000)
        heard = b""
        with contextlib.suppress(ConnectionError):
            heard = await reader.read()
        assert heard.count(b"HTTP/1.1 200") <= 1
        writer.close()

    attacked(tmp_path, attack)


FLOOD = """
import socket, ssl, sys, threading
context = ssl.create_default_context(cafile=sys.argv[3])
def attack():
    while True:
        try:
            with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=600) as connection:
                with context.wrap_socket(connection, server_hostname="host-a") as tls:
                    tls.recv(1)
        except OSError:
            pass
for _ in range(12):
    threading.Thread(target=attack, daemon=True).start()
print("begins", flush=True)
sys.stdin.readline()
"""


def test_an_operator_at_the_address_of_a_flood_of_handshakes_gets_in(tmp_path: Path) -> None:
    """Handshakes above the rate of a party wait for their turn; the agent does not hang up on them."""

    async def attack(site: San) -> None:
        host, _, port = site.apis["host-a"].rpartition(":")
        ca = str(site.certified["host-a"].ca)
        flood = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", FLOOD, host, port, ca),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert flood.stdout is not None
        await flood.stdout.readline()
        try:
            for _ in range(8):
                connection = await connect(site)
                assert (await status_and_rest(connection))[0] == "403"
                connection[1].close()
        finally:
            flood.kill()
            await flood.wait()

    attacked(tmp_path, attack)


@pytest.mark.provokes("request-refused")
def test_refused_connections_do_not_fill_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_server, "_TELL_SECONDS", 3600.0)

    async def attack(site: San) -> None:
        with capture_logs() as log:
            for sent in (b"GET /" + b"a" * request_bounds.HEADER_BYTES, b"no HTTP at all\r\n\r\n"):
                for _ in range(5):
                    reader, writer = await connect(site)
                    writer.write(sent)
                    assert (await status_of(reader))[:1] in ("4", "")
                    writer.close()
        refused = [each for each in log if each["event"] == "A connection to the API was refused."]
        assert len({each["reason"] for each in refused}) == len(refused) == 2

    attacked(tmp_path, attack)


async def status_and_rest(connection: Connection) -> tuple[str, bool]:
    """The status of the answer to a request, and whether the agent closes the connection after it."""
    reader, writer = connection
    writer.write(b"GET /guests/nobody/secret HTTP/1.1\r\nHost: host-a\r\n\r\n")
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    await reader.readexactly(int(head.partition("content-length: ")[2].split("\r\n")[0]))
    return head.split()[1], "connection: close" in head


def test_a_stranger_has_one_answer_for_each_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handshakes come at a limited rate, and so do requests of those whom the agent's file does not name. A
    refused one counts several turns of its address."""
    charged: list[str] = []

    def charge(_: Handshakes, party: str) -> None:
        charged.append(party)

    monkeypatch.setattr(Handshakes, "charge", charge)

    async def attack(site: San) -> None:
        now = datetime.datetime.now(datetime.UTC)
        made = issue("stranger", tmp_path / "pki", ["127.0.0.1"], 1, now)
        stranger = await connect(site, TlsFiles(made.certificate, made.key, site.certified["host-a"].ca))
        assert await status_and_rest(stranger) == ("403", True)
        with contextlib.suppress(ConnectionError):
            assert await stranger[0].read() == b""
        stranger[1].close()
        assert charged == [f"uid {os.getuid()}"]
        # a peer asks for what is an operator's, and stays connected
        peer = await connect(site)
        for _ in range(2):
            assert await status_and_rest(peer) == ("403", False)
        peer[1].close()
        assert charged == [f"uid {os.getuid()}"]

    attacked(tmp_path, attack)


SILENT = """
front_ends, count = json.loads(sys.argv[1]), int(sys.argv[2])
held = []
for number in range(count):
    for host, port in front_ends:
        client = socket.socket()
        client.settimeout(5)
        try:
            client.connect((host, port))
        except OSError:
            client.close()
            continue
        held.append(client)
print(len(held), flush=True)
sys.stdin.readline()
"""


@needs_root
def test_silent_connections_take_neither_the_operators_nor_the_guests_places(rig: Rig) -> None:
    """An agent that may have 256 descriptors, and a user of the host who opens 600 connections."""
    target = rig.target()
    limited = ("prlimit", "--nofile=256:256")
    agent = rig.agent("host-a", guest="db1", drives=[target.url()], prefix=limited)
    rig.agent("host-b", guest="db1", drives=[target.url()], incoming=True)
    done = rig.holdover("pr", "register", agent.url(), "--new-key", "0xabc")
    assert done.returncode == 0, done.stderr
    host, _, port = rig.hosts["host-a"].address.rpartition(":")
    front_ends = json.dumps([[host, int(port)], [host, agent.export_port]])
    with program_of(SILENT, front_ends, "300") as attacker:
        assert attacker.stdout is not None
        assert int(attacker.stdout.readline()) > 256
        # the operator, another host's agent, and a guest whose QEMU connects only now
        assert rig.holdover_json("status", "--api", agent.api)[0]["host"] == "host-a"
        moved = rig.holdover("handover", "prepare", "db1", "--at", agent.api, "--to", "host-b")
        assert moved.returncode == 0, moved.stderr
        back = rig.holdover("handover", "rollback", "db1", "--at", agent.api)
        assert back.returncode == 0, back.stderr
        keys = rig.holdover_json("pr", "keys", agent.url())
        assert keys["keys"] == ["0xabc"]
    assert "Connections were turned away." in agent.process.output()
