"""Completion in the shell: the words that each shell offers, and where names come from."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from holdover.cli import completion
from tests.rig.processes import Rig

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


class Context(typer.Context):
    """A command line as far as it has been typed."""

    def __init__(self, **params: Any) -> None:
        self.params = params


@pytest.fixture(autouse=True)
def nobody_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Neither an agent nor a file of this machine says anything in these tests."""
    monkeypatch.setattr(completion, "_AGENT_FILE", tmp_path / "agent.toml")
    monkeypatch.setattr(completion, "DEFAULT_API", f"unix:{tmp_path}/none.sock")
    monkeypatch.delenv("HOLDOVER_API", raising=False)
    return iter([None])


def answered(shell: str, words: list[str], api: str) -> list[str]:
    """What a shell offers for the last of the words."""
    if shell == "bash":
        script = (
            'source <(holdover completion bash); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
            "_holdover_completion holdover; printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        command = ["bash", "--norc", "-c", script, "bash", *words]
    else:
        script = 'holdover completion fish | source; complete --do-complete "$argv"'
        command = ["fish", "--no-config", "-c", script, " ".join(words)]
    environment = {**os.environ, "PATH": PATH, "HOLDOVER_API": api}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return [line.split("\t")[0] for line in done.stdout.splitlines() if line]


@pytest.mark.parametrize("shell", ["bash", pytest.param("fish", marks=pytest.mark.peer("fish"))])
def test_a_shell_completes_commands_choices_and_the_names_that_an_agent_knows(rig: Rig, shell: str) -> None:
    drives = [rig.target().url()]
    agent = rig.agent("host-a", guest="db1", drives=drives)
    for words, offered in {
        "holdover mig": ["migrate", "migrations"],
        "holdover handover r": ["rollback"],
        "holdover migrate --stale re": ["refuse", "reread"],
        "holdover migrate d": ["db1"],
        "holdover migrate db1 --to ho": ["host-b"],
        "holdover handover status d": ["db1"],
        "holdover migrate db1 --destination-q": ["--destination-qmp"],
    }.items():
        assert answered(shell, words.split(), agent.api) == offered, words


@pytest.mark.peer("zsh")
def test_zsh_takes_the_script() -> None:
    script = (
        "autoload -Uz compinit; compinit -D; source <(holdover completion zsh); print ${_comps[holdover]}"
    )
    done = subprocess.run(
        ["zsh", "-f", "-c", script],
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("_holdover_completion\n", "")


def test_names_come_from_the_agent_s_file_if_no_agent_answers(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text(
        'name = "host-a"\n[[guest]]\nname = "db1"\n[[guest]]\nname = "db2"\n[[peer]]\nname = "host-b"\n'
    )
    assert completion.complete_guest(Context()) == ["db1", "db2"]
    assert completion.complete_peer(Context()) == ["host-b"]
    assert completion.complete_handover(Context()) == []


@pytest.mark.parametrize("text", ["", "no TOML", "guest = 1", "[[guest]]\nname = 1"])
def test_a_file_that_says_nothing_offers_nothing(tmp_path: Path, text: str) -> None:
    assert completion.complete_guest(Context()) == []
    (tmp_path / "agent.toml").write_text(text)
    assert completion.complete_guest(Context()) == []


def test_the_file_of_this_machine_says_nothing_of_another_agent(tmp_path: Path) -> None:
    (tmp_path / "agent.toml").write_text('[[guest]]\nname = "db1"\n')
    assert completion.complete_guest(Context(at=f"unix:{tmp_path}/other.sock")) == []
    assert completion.complete_guest(Context(source="host-b:7411")) == []


def test_an_agent_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion, "_SECONDS", 0.01)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent.sock"))
        silent.listen()
        assert completion.complete_guest(Context(at=f"unix:{tmp_path}/silent.sock")) == []


def test_names_that_a_shell_could_take_for_something_else_are_not_offered(tmp_path: Path) -> None:
    names = ["db1", "two words", "$(reboot)", "a`b`", "-h", "x\\\\", "win.example:1", "*", "a'b", ""]
    body = b'{"guests": [' + b", ".join(b'{"name": "%s"}' % each.encode() for each in names) + b"]}"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "api.sock"))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)

        server = threading.Thread(target=answer)
        server.start()
        found = completion.complete_guest(Context(at=f"unix:{tmp_path}/api.sock"))
        server.join()
    assert found == ["db1", "win.example:1"]
