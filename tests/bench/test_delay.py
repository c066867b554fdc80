from __future__ import annotations

import asyncio
import random

from bench.delay import DelayProxy, delay_proxy


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


async def _through(proxy: DelayProxy, port: int, pieces: list[bytes], delays: list[float]) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.route(port))
    for number, piece in enumerate(pieces):
        # the first before the proxy has a connection to the server
        writer.write(piece)
        await proxy.set_delay(delays[number % len(delays)])
    back = await reader.readexactly(sum(map(len, pieces)))
    writer.close()
    return back


def test_all_bytes_come_through_in_order_while_the_delay_changes() -> None:
    async def scenario() -> None:
        random.seed(1)
        pieces = [random.randbytes(random.randrange(1, 5000)) for _ in range(60)]
        async with delay_proxy() as proxy, await asyncio.start_server(_echo, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert await _through(proxy, port, pieces, [0.02, 0, 0.001]) == b"".join(pieces)

    asyncio.run(scenario())


def test_the_end_of_a_connection_comes_after_its_last_bytes() -> None:
    async def scenario() -> None:
        async def leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"the last words")
            writer.close()

        async with (
            delay_proxy() as proxy,
            await asyncio.start_server(leave, "127.0.0.1", 0) as server,
        ):
            await proxy.set_delay(0.01)
            port = await proxy.route(server.sockets[0].getsockname()[1])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await reader.read() == b"the last words"
            writer.close()

    asyncio.run(scenario())


def test_a_server_that_is_not_there_closes_the_connection() -> None:
    async def scenario() -> None:
        async with delay_proxy() as proxy:
            reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.route(1))
            assert await reader.read() == b""
            writer.close()

    asyncio.run(scenario())
