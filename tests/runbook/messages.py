"""The messages of the product, read from its source: what refuses a request, and what the log warns of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "holdover"
_OTHERS = ("demo", "target", "lun", "iscsi", "scsi", "faults", "trace", "runbook", "config")
"""Rooms whose messages are about a test tool or a wrong file: each names its remedy."""
_OTHER_COMMANDS = ("demo.py", "target.py", "target_ctl.py", "dashboard.py", "libvirt.py")
"""Commands of test tools, and those whose messages name the remedy themselves."""
_REFUSALS = frozenset(
    """
    Refused HandoverProblem _Refusal AskFailed ColdStartRefused ArrivalRefused MigrationProblem MigrateFailed
    ExpectError NotIdentified Busy StepFailed JournalError JournalDamaged RecoveryError NotWaiting PortTaken
    MonitorAbsent MonitorLost MigrationFailed NotNow NoMonitor AgentError AgentRefused UnknownPeer QemuError
    """.split()  # noqa: SIM905
)
_TAILS = frozenset(
    {
        "Nothing was changed.",
        "nothing was changed",
        "{}; holdover handover status {} says what is true",
        "The agent warns its operator.",
    }
)
"""What stands behind the text of another message."""
_ALARMS = frozenset({"warning", "error", "critical"})


@dataclass(frozen=True, slots=True)
class Message:
    """A message: where it is made, and its texts; `{}` stands for what differs each time."""

    where: str
    texts: tuple[str, ...]


def messages() -> Iterator[Message]:
    """Every message with a text of its own; what only passes on another's text is left out."""
    for path in sorted(SOURCE.rglob("*.py")):
        relative = path.relative_to(SOURCE)
        if relative.parts[0] not in _OTHERS:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and (_is_one(node.func) or _is_failure(node, path.name)):
                    texts = tuple(text for each in node.args for text in skeletons(each) if " " in text)
                    if any(_says_something(text) for text in texts):
                        yield Message(f"{relative}:{node.lineno}", texts)


def _says_something(text: str) -> bool:
    """Whether a text is one of its own, and not the name of a command or the frame of another text."""
    return len(re.findall(r"\b[a-z]+\b", text)) > 2 and text not in _TAILS


def _is_one(function: ast.expr) -> bool:
    if isinstance(function, ast.Attribute):
        return function.attr in _ALARMS
    return isinstance(function, ast.Name) and function.id in _REFUSALS


def _is_failure(call: ast.Call, file: str) -> bool:
    """Whether a command ends here with exit status 1, and not because of a wrong command line."""
    if not isinstance(call.func, ast.Name) or call.func.id != "refuse" or file in _OTHER_COMMANDS:
        return False
    return any(isinstance(each, ast.Constant) and each.value == 1 for each in call.args)


def skeletons(node: ast.expr) -> list[str]:
    """The texts that an expression may be, as far as the source says."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return ["".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)]
    if isinstance(node, ast.IfExp):
        return [*skeletons(node.body), *skeletons(node.orelse)]
    if isinstance(node, ast.BinOp):
        return ["".join((*skeletons(node.left)[:1], *skeletons(node.right)[:1]))]
    return []
