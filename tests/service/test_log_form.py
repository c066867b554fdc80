"""The form of every call of the log: a sentence, with fields by the same names everywhere."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src" / "holdover"
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
FIELDS = {
    "after", "answer", "before", "by", "host", "source",
    "cdb", "certificates", "changed", "count", "disk", "drive", "exc_info",
    "export", "file", "front_end", "guest", "handover_id", "identity", "install", "keys", "last", "lun",
    "luns", "migrate_pr", "migration_id", "monitor", "opcode", "path", "peer", "phase", "pid", "reason",
    "runs", "seconds", "seen", "signal", "state", "task", "to", "uid", "uri", "without",
}  # fmt: skip
"""The names of fields. A new one goes here, if none of these says the same."""


def calls() -> Iterator[tuple[str, ast.Call]]:
    for file in sorted(SOURCES.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and ast.unparse(node.func.value) in ("log", "self._log", "structlog.get_logger()")
            ):
                yield f"{file.relative_to(SOURCES)}:{node.lineno}", node


CALLS = list(calls())


def test_these_are_the_calls() -> None:
    assert len(CALLS) > 70


@pytest.mark.parametrize("call", [pytest.param(call, id=place) for place, call in CALLS])
def test_an_event_is_a_sentence_with_known_fields(call: ast.Call) -> None:
    event = call.args[0]
    if isinstance(event, ast.Name):
        assert event.id in ("event", "what"), "only what limits lines passes an event on"
    else:
        assert isinstance(event, ast.Constant), "the sentence is the same each time; fields tell what differs"
        assert isinstance(event.value, str)
        assert event.value[0].isupper()
        assert event.value[-1] == "."
        assert len(event.value.split()) >= 4
    assert len(call.args) == 1
    assert {each.arg for each in call.keywords if each.arg is not None} <= FIELDS


def test_no_other_log_is_used_but_where_no_agent_may_be() -> None:
    # the iSCSI target runs without an agent too; an agent forwards what it logs
    users = {
        str(file.relative_to(SOURCES).parent)
        for file in SOURCES.rglob("*.py")
        if "logging.getLogger(" in file.read_text().replace('getLogger("uvicorn', "")
    }
    assert users == {"iscsi/target", "target"}
