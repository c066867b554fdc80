"""The orders of workload and intruder, read from standard input."""

from __future__ import annotations

import subprocess
import sys

from holdover.demo.messages import Connect, encode

_LISTENS = """
import asyncio, gc
from holdover.demo.writer import orders

async def main():
    async with orders() as queue:
        gc.collect()
        print("listening", flush=True)
        while True:
            order = await queue.get()
            print(type(order).__name__, flush=True)
            if type(order).__name__ == "End":
                return

asyncio.run(main())
"""


def _listening() -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", _LISTENS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "listening\n"
    return child


def test_orders_arrive_after_a_garbage_collection_and_end_with_the_input() -> None:
    said, _ = _listening().communicate(encode(Connect("iscsi://h/t/0")).decode(), timeout=600)
    assert said == "Connect\nEnd\n"


def test_a_line_that_is_no_order_ends_the_process() -> None:
    child = _listening()
    said, error = child.communicate('{"type":"dance"}\n', timeout=600)
    assert said == ""
    assert child.returncode != 0
    assert "dance" in error
