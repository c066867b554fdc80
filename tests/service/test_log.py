"""The three forms of the log, and the journal's protocol."""

from __future__ import annotations

import io
import json
import logging
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from holdover.service import log
from holdover.service.journald import JournalSocket, encode, is_journal
from holdover.service.log import LogFormat, LogLevel, configure


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before, handlers, level = structlog.get_config(), logging.root.handlers, logging.root.level
    yield
    structlog.configure(**before)
    logging.root.handlers, logging.root.level = handlers, level


def decode(datagram: bytes) -> dict[str, str]:
    """An entry, as journald reads it."""
    found = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        found[name.decode()] = value.decode()
        datagram = rest
    return found


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(max_size=200)))
def test_any_entry_comes_back(entry: dict[str, str]) -> None:
    assert decode(encode(entry)) == {
        name: text.encode("utf-8", "replace").decode() for name, text in entry.items()
    }


def test_a_long_value_is_cut_and_fits_in_a_datagram() -> None:
    assert len(encode({"MESSAGE": "x" * 10_000_000, "OTHER": "\n" * 10_000_000})) < 200_000


def test_json_has_one_object_in_each_line() -> None:
    stream = io.StringIO()
    configure("holdover-agent", LogLevel.INFO, LogFormat.JSON, {}, stream)
    structlog.get_logger().info("A guest has arrived and runs here.", guest="db1", handover_id="h")
    structlog.get_logger().debug("This is not shown at all.")
    logging.getLogger("other.library").warning("it %s", "failed")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("timestamp")
    assert first == {
        "event": "A guest has arrived and runs here.",
        "guest": "db1",
        "handover_id": "h",
        "level": "info",
    }
    assert (second["event"], second["logger"], second["level"]) == ("it failed", "other.library", "warning")


def test_errors_show_no_local_variables() -> None:
    for form in (LogFormat.JSON, LogFormat.CONSOLE):
        stream = io.StringIO()
        configure("holdover-agent", LogLevel.INFO, form, {}, stream)
        fail("a secret of a guest")
        assert "ZeroDivisionError" in stream.getvalue()
        assert "a secret of a guest" not in stream.getvalue().replace('fail("a secret of a guest")', "")


def fail(secret: str) -> None:
    try:
        print(secret[:0], end="", file=io.StringIO())
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        structlog.get_logger().error("Something has failed unexpectedly.", exc_info=error)


def test_the_journal_gets_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        journald.settimeout(600)
        monkeypatch.setattr(log, "JournalSocket", lambda: JournalSocket(tmp_path / "socket"))
        stream = io.StringIO()
        configure("holdover-agent", LogLevel.INFO, LogFormat.JOURNALD, {}, stream)
        structlog.get_logger().warning(
            "The LUN did not answer a command.", guest="db1", lun="naa.5", reason=""
        )
        assert decode(journald.recv(65536)) == {
            "MESSAGE": "The LUN did not answer a command. guest=db1 lun=naa.5 explain=lun-refuses",
            "PRIORITY": "4",
            "SYSLOG_IDENTIFIER": "holdover-agent",
            "HOLDOVER_GUEST": "db1",
            "HOLDOVER_LUN": "naa.5",
            "HOLDOVER_REASON": "",
            "HOLDOVER_EXPLAIN": "lun-refuses",
        }
        assert stream.getvalue() == ""
    structlog.get_logger().warning("The journal is gone, and this is read all the same.")
    assert "The journal is gone" in stream.getvalue()


def test_without_a_journal_the_console_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "JournalSocket", lambda: JournalSocket(tmp_path / "nothing"))
    stream = io.StringIO()
    configure("holdover-agent", LogLevel.INFO, LogFormat.JOURNALD, {}, stream)
    structlog.get_logger().warning("A line for people is here.", guest="db1")
    assert "guest=db1" in stream.getvalue()


def test_a_stream_is_the_journal_if_the_environment_says_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        found = (tmp_path / "log").stat()
        assert is_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": "nonsense"})
        assert not is_journal(stream, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:2"})
