"""Ports for the demonstration's servers: nobody is given one that another was given."""

from __future__ import annotations

import asyncio
import random
import socket
import subprocess
import sys

import pytest

from holdover.demo import processes
from holdover.demo.processes import free_port

_DRAW = """
from holdover.demo import processes
processes._PORTS = (20000, 20900)
print(*(processes.free_port() for _ in range(150)), flush=True)
input()
"""


def test_no_port_is_given_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_PORTS", (20000, 20600))
    assert len({free_port() for _ in range(150)}) == 150


def test_another_process_is_given_others() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _DRAW], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    drawn: list[str] = []
    for child in children:
        assert child.stdout
        drawn += child.stdout.readline().split()
    for child in children:
        child.communicate("\n")
    assert len(drawn) == 450
    assert len(set(drawn)) == 450


def test_a_seed_that_a_test_sets_does_not_draw_the_ports() -> None:
    drawn = []
    for _ in range(2):
        random.seed(0)
        drawn.append([free_port() for _ in range(5)])
        while processes._KEPT:  # so that they could be drawn again
            processes._KEPT.pop().close()
    assert drawn[0] != drawn[1]


def test_a_server_listens_at_the_port_and_nobody_answers_before() -> None:
    asyncio.run(_listens_at(free_port()))


async def _listens_at(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        with socket.socket() as second:
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                second.bind(("127.0.0.1", port))


def test_old_ones_are_let_go() -> None:
    for _ in range(processes._KEPT_AT_MOST + 50):
        free_port()
    assert len(processes._KEPT) == processes._KEPT_AT_MOST
