"""The control socket of a target, whatever is sent to it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.faults.armed import ArmedFaults
from holdover.target.control import Control, ControlAnswer
from holdover.target.state import TargetState
from tests.faults.strategies import faults

EMPTY = TargetState(iqn="iqn.2026-11.org.example:t", luns=(), sessions=(), faults=())


def control() -> Control:
    return Control(ArmedFaults(lambda: 0.0), lambda: EMPTY)


def ask(asked: Control, **request: object) -> ControlAnswer:
    return asked.answer(json.dumps(request).encode())


@given(st.lists(faults().map(str), max_size=5))
def test_faults_come_and_go(texts: list[str]) -> None:
    asked = control()
    for number, text in enumerate(texts, 1):
        (added,) = ask(asked, do="add", fault=text).faults or ()
        assert (added.id, added.fault) == (number, text)
    listed = ask(asked, do="list").faults or ()
    assert [each.fault for each in listed] == texts
    for each in listed[::2]:
        left = ask(asked, do="remove", id=each.id).faults or ()
        assert each.id not in [other.id for other in left]
    assert ask(asked, do="clear").faults == ()


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ({}, "do"),
        ({"do": "paint"}, "paint"),
        ({"do": "add"}, "fault"),
        ({"do": "add", "fault": "colour=red"}, "unknown word 'colour'"),
        ({"do": "remove", "id": "1"}, "int"),
        ({"do": "remove", "id": 3}, "there is no fault 3; no fault is in force"),
        ({"do": "list", "colour": "red"}, "colour"),
    ],
    ids=str,
)
def test_what_cannot_be_is_named(request_: dict[str, Any], problem: str) -> None:
    error = ask(control(), **request_).error
    assert error is not None
    assert problem in error


def test_a_fault_that_is_not_there_is_answered_with_those_that_are() -> None:
    asked = control()
    for _ in range(2):
        ask(asked, do="add", fault="lose-response")
    numbers = ", ".join(str(each.id) for each in ask(asked, do="list").faults or ())
    wanted = f"there is no fault 99; the faults that there are: {numbers}"
    assert ask(asked, do="remove", id=99).error == wanted


@given(
    st.binary() | st.recursive(st.none() | st.text(), st.lists).map(lambda each: json.dumps(each).encode())
)
def test_any_line_has_an_answer(line: bytes) -> None:
    answer = control().answer(line)
    assert msgspec.json.decode(msgspec.json.encode(answer), type=ControlAnswer) == answer


def test_lines_over_the_socket(tmp_path: Path) -> None:
    async def test() -> None:
        asked = control()
        path = tmp_path / "control"
        await asked.start(path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"do": "status"}\n' * 2 + b"rubbish\n")
        for _ in range(2):
            assert msgspec.json.decode(await reader.readline(), type=ControlAnswer).status == EMPTY
        assert msgspec.json.decode(await reader.readline(), type=ControlAnswer).error is not None
        writer.write(bytes(1 << 17) + b"\n")
        answer = msgspec.json.decode(await reader.readline(), type=ControlAnswer)
        assert answer.error == "a line of more than 65536 bytes"
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b"", "and that was the last"
        writer.close()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b'{"do": "list"}\n')
        assert msgspec.json.decode(await reader.readline(), type=ControlAnswer).faults == ()
        await asked.close()
        assert await reader.read() == b""
        writer.close()
        assert not path.exists()

    async def limited() -> None:
        async with asyncio.timeout(600):
            await test()

    asyncio.run(limited())
