"""`holdover handover status`, and a step that nobody answers: the exit status says what is in doubt."""

from __future__ import annotations

import json
from typing import Any

import pytest

from holdover.api.client import AgentClient, AgentError
from holdover.api.documents import HandoverState
from holdover.cli.asking import Asking
from holdover.cli.handover import handover

AT = "unix:/nowhere/api.sock"
STATE = HandoverState(
    handover_id="h1",
    guest="db1",
    host="host-a",
    role="source",
    peer="host-b",
    state="closing",
    open=True,
    luns=(),
    in_doubt=True,
)


def test_what_is_in_doubt_ends_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def told(*_: Any) -> HandoverState:
        return STATE

    monkeypatch.setattr(AgentClient, "handover", told)
    with pytest.raises(SystemExit) as ended:
        handover.status("db1", AT, Asking(), json=True)
    assert ended.value.code == 3
    assert json.loads(capsys.readouterr().out)["state"] == "closing"


@pytest.mark.parametrize(("step", "status"), [("commit", 3), ("finish", 1)])
def test_a_step_that_nobody_answers_is_in_doubt_if_it_moves_something(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], step: str, status: int
) -> None:
    async def told(*_: Any) -> HandoverState:
        return STATE

    async def silent(*_: Any) -> HandoverState:
        raise AgentError("no answer")

    monkeypatch.setattr(AgentClient, "handover", told)
    monkeypatch.setattr(AgentClient, "guest", told)
    monkeypatch.setattr(AgentClient, step, silent)
    with pytest.raises(SystemExit) as ended:
        getattr(handover, step)("db1", AT, "h1", Asking(), json=False)
    assert ended.value.code == status
    assert "Whether it was done is not known" in capsys.readouterr().err
