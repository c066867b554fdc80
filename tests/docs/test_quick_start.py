"""The quick start of README.md works as it is typed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.demo.processes import free_port

pytestmark = pytest.mark.long

README = Path(__file__).parents[2] / "README.md"
HANG = 1200
"""Seconds after which the commands hang. They take a few, and 40 on a machine with ten times its load."""


def quick_start() -> str:
    """The commands below the heading "Quick start"."""
    found = re.search(r"^## Quick start$.*?^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def on_free_ports(commands: str) -> str:
    """The commands with other ports, since tests run beside each other."""
    for port in sorted(set(re.findall(r"(?<=127\.0\.0\.1:)\d+", commands))):
        commands = commands.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free_port()}")
    return commands


def run(commands: str, folder: Path) -> tuple[int, str]:
    """The exit status and the output of commands in a shell, whose processes are all ended afterwards."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    output = folder / "output"
    with output.open("w") as file:
        shell = subprocess.Popen(
            ["bash", "-ec", commands],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(HANG)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # its group is its own: what it left behind ends too
    return status, output.read_text()


def test_the_quick_start_works_as_typed(tmp_path: Path) -> None:
    status, output = run(on_free_ports(quick_start()), tmp_path)
    assert status == 0, output
    holders = re.findall(r"^0xdb1 +yes +wero .*?:(host-[ab]),i,", output, re.MULTILINE)
    assert holders == ["host-a", "host-b"], output
    assert "Guest db1 moved from host-a to host-b" in output


def test_a_command_that_fails_ends_the_run(tmp_path: Path) -> None:
    assert run("echo before; sleep 600 & holdover no-such-command 2>/dev/null; echo after", tmp_path) == (
        2,
        "before\n",
    )
