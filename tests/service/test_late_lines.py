"""Lines of the log that wait until the event loop has nothing more urgent to do."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime

import pytest
import structlog

from holdover.service.late_lines import LATE_SECONDS, MOST
from holdover.service.log import LogFormat, LogLevel, configure, write_late_lines

log = structlog.get_logger()


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before, handlers, level = structlog.get_config(), logging.root.handlers, logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers, logging.root.level = handlers, level


@pytest.fixture
def stream() -> io.StringIO:
    made = io.StringIO()
    configure("holdover-agent", LogLevel.INFO, LogFormat.JSON, {}, made)
    return made


def events(stream: io.StringIO) -> list[str]:
    return [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_what_informs_is_written_later_and_in_order(stream: io.StringIO) -> None:
    async def test() -> None:
        log.info("first")
        await asyncio.sleep(0)
        log.info("second")
        assert events(stream) == []
        await asyncio.sleep(LATE_SECONDS * 2)
        assert events(stream) == ["first", "second"]
        log.info("third")
        assert events(stream) == ["first", "second"]
        await asyncio.sleep(LATE_SECONDS * 2)
        assert events(stream) == ["first", "second", "third"]

    asyncio.run(test())


def test_a_line_has_the_time_at_which_it_was_logged(stream: io.StringIO) -> None:
    async def test() -> None:
        before = time.time()
        log.info("it waits")
        after = time.time()
        await asyncio.sleep(LATE_SECONDS * 2)
        said = json.loads(stream.getvalue())["timestamp"]
        assert said.endswith("Z")
        assert before - 1e-5 <= datetime.fromisoformat(said).timestamp() <= after + 1e-5

    asyncio.run(test())


@pytest.mark.parametrize(
    "urgent",
    [
        lambda: log.warning("urgent"),
        lambda: log.error("urgent"),
        lambda: log.info("urgent", fields=["that", "may", "change"]),
        lambda: log.info("urgent", exc_info=True),
    ],
)
def test_what_cannot_wait_comes_at_once_and_after_what_waits(
    stream: io.StringIO, urgent: Callable[[], None]
) -> None:
    async def test() -> None:
        log.info("first")
        urgent()
        assert events(stream) == ["first", "urgent"]

    asyncio.run(test())


def test_a_line_of_another_thread_comes_at_once_and_after_what_waits(stream: io.StringIO) -> None:
    async def test() -> None:
        log.info("first")
        thread = threading.Thread(target=lambda: log.info("in a thread"))
        thread.start()
        thread.join()
        assert events(stream) == ["first", "in a thread"]

    asyncio.run(test())


def test_outside_an_event_loop_nothing_waits(stream: io.StringIO) -> None:
    log.info("first")
    assert events(stream) == ["first"]


def test_only_so_many_lines_wait(stream: io.StringIO) -> None:
    async def test() -> None:
        for number in range(MOST + 1):
            log.info(str(number))
        assert events(stream) == [str(number) for number in range(MOST + 1)]

    asyncio.run(test())


def test_what_waits_when_the_loop_ends_is_written_at_the_end(stream: io.StringIO) -> None:
    async def test(name: str) -> None:
        log.info(name)

    asyncio.run(test("first"))
    asyncio.run(test("second"))
    assert events(stream) == []
    write_late_lines()
    assert events(stream) == ["first", "second"]


def test_a_later_loop_writes_what_it_was_given(stream: io.StringIO) -> None:
    async def first() -> None:
        log.info("first")

    async def second() -> None:
        log.info("second")
        await asyncio.sleep(LATE_SECONDS * 2)
        assert events(stream) == ["first", "second"]

    asyncio.run(first())
    asyncio.run(second())
