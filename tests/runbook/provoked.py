"""The tests that meet a row of the runbook: those with the marker `provokes`."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from holdover.runbook import topic_of

TESTS = Path(__file__).parents[1]
_topic = cache(topic_of)


@cache
def provoked() -> list[tuple[str, str]]:
    """Each such test with its topic. Only a test that names the topic, or words of its messages, counts."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.provokes(" in text:
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    found += [(f"{path.name}::{node.name}", topic) for topic in _topics(node)]
    return found


def _topics(test: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    marks = [each for each in test.decorator_list if isinstance(each, ast.Call)]
    topics = [
        str(argument.value)
        for mark in marks
        if isinstance(mark.func, ast.Attribute) and mark.func.attr == "provokes"
        for argument in mark.args
        if isinstance(argument, ast.Constant)
    ]
    texts = [
        each.value
        for statement in test.body
        for each in ast.walk(statement)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]
    met = {topic.name for text in texts if (topic := _topic(text)) is not None}
    return [topic for topic in topics if topic in met or topic in texts]
