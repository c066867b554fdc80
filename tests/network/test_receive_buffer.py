"""One buffer for each loop, however many connections."""

from __future__ import annotations

import asyncio
import subprocess
import sys

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


_COMMANDS = """
import asyncio, resource
from holdover.network.receive_buffer import receive_buffer

async def faults():
    receive_buffer(asyncio.get_running_loop())
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            [bytes(262144) + b"x" for _ in range(16)]
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

asyncio.run(faults())
"""


def test_the_memory_of_large_commands_is_not_given_back_with_each() -> None:
    ran = subprocess.run([sys.executable, "-c", _COMMANDS], capture_output=True, text=True, check=True)
    # Each of the 160 would pay for 64 pages and more.
    assert int(ran.stdout) < 160
