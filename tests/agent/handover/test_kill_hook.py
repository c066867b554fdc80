"""The hook that ends an agent when a state is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from holdover.agent.handover.kill_hook import KillHook

SCRIPT = """
from holdover.agent.handover.kill_hook import KillHook
hook = KillHook.from_environment()
for number in range(3):
    hook.before(["leaving", "committing"])
    print("written", number, flush=True)
    hook.after(["leaving", "committing"])
"""


@pytest.mark.parametrize(
    ("text", "written"),
    [("committing:2:before", 1), ("committing:2:after", 2), ("leaving:1:before", 0), ("leaving:4:after", 3)],
)
def test_it_strikes_at_the_write_that_was_named(text: str, written: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={"HOLDOVER_KILL_AT": text}, stdout=subprocess.PIPE, check=False
    )
    assert len(done.stdout.splitlines()) == written
    assert done.returncode == (0 if written == 3 else -signal.SIGKILL)


def test_it_stops_at_the_write_that_was_named_and_goes_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        env={"HOLDOVER_STOP_AT": "committing:2:before"},
        stdout=subprocess.PIPE,
    ) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate()
    assert len(said.splitlines()) == 3
    assert process.returncode == 0


@pytest.mark.parametrize("text", ["giving", "giving:1", "giving:0:after", ":1:after", "giving:x:before"])
def test_what_it_does_not_understand_it_says(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDOVER_KILL_AT", text)
    with pytest.raises(ValueError, match="write STATE:N:before or STATE:N:after"):
        KillHook.from_environment()


def test_without_the_variable_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOLDOVER_KILL_AT", raising=False)
    hook = KillHook.from_environment()
    hook.before(["committing"])
    hook.after(["committing"])
