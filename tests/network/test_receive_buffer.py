"""One buffer for each loop, however many connections."""

from __future__ import annotations

import asyncio

from holdover.network.receive_buffer import receive_buffer


async def _buffer() -> memoryview:
    loop = asyncio.get_running_loop()
    assert receive_buffer(loop) is receive_buffer(loop)
    return receive_buffer(loop)


def test_a_loop_has_one_and_shares_it_with_no_other() -> None:
    first = asyncio.run(_buffer())
    second = asyncio.run(_buffer())
    assert not first.readonly
    first[0], second[0] = 1, 2
    assert (first[0], second[0]) == (1, 2)
