"""A connection that is given up closes its own descriptor, once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from holdover.network.event_loop import EventLoop, run


async def given_up(pauses: int, tls: ssl.SSLContext | None = None) -> tuple[socket.socket, bool]:
    """A socket whose connection was cancelled after so many steps of the loop, and whether the other end has
    seen its end.
    """
    loop = asyncio.get_running_loop()
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    client.setblocking(False)
    name = None if tls is None else "a.example"
    opening = asyncio.ensure_future(
        loop.create_connection(asyncio.Protocol, sock=client, ssl=tls, server_hostname=name)
    )
    for _ in range(pauses):
        await asyncio.sleep(0)
    opening.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        transport, _ = await opening
        transport.close()
    await asyncio.sleep(0.01)
    accepted, _ = server.accept()
    accepted.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while accepted.recv(4096):
            pass
        accepted.close()
    ended = accepted.fileno() == -1
    accepted.close()
    server.close()
    return client, ended


@pytest.mark.parametrize("pauses", range(1, 6))
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_descriptor_is_not_closed_twice(pauses: int, tls: bool) -> None:
    async def test() -> None:
        client, ended = await given_up(pauses, ssl.create_default_context() if tls else None)
        assert client.fileno() == -1
        assert ended

    run(test())


def test_uvloop_alone_would_close_it_twice() -> None:
    """If this fails, uvloop has mended it, and `EventLoop` is superfluous."""

    async def test() -> None:
        client, _ = await given_up(1)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(client.fileno())
        client.detach()

    uvloop.run(test())


def test_connections_that_open_work(tmp_path: Path) -> None:
    async def test() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readline())
            writer.close()

        front_ends: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            address = server.sockets[0].getsockname()
            async with await asyncio.start_unix_server(answer, tmp_path / "sock"):
                front_ends += [
                    (asyncio.open_connection, address),
                    (asyncio.open_unix_connection, (str(tmp_path / "sock"),)),
                ]
                for connect, where in front_ends:
                    reader, writer = await connect(*where)  # type: ignore[misc]
                    writer.write(b"hello\n")
                    assert await reader.readline() == b"hello\n"
                    writer.close()

    run(test())


def test_it_is_the_loop_that_runs() -> None:
    async def test() -> type:
        return type(asyncio.get_running_loop())

    assert run(test()) is EventLoop
