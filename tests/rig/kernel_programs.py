"""Starting programs within a kernel of the rig."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from holdover.cli.main import main
from tests.rig.forked import ForkedHoldover

# A user-mode kernel (6.1) kills a process with threads that uses vfork, as Python does unless the child is to
# change its user. It is root already.
_USER = "root"


class Shell:
    """Runs programs by a shell: there a Python with threads takes a tenth of a second for each by itself."""

    def __init__(self) -> None:
        self._shell = subprocess.Popen(
            ["sh"], user=_USER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, command: Sequence[str], output: str = "/dev/null") -> int:
        """The exit status of a program; what it writes goes to the file `output`."""
        assert self._shell.stdin is not None
        assert self._shell.stdout is not None
        self._shell.stdin.write(f"{shlex.join(command)} >{shlex.quote(output)} 2>&1 </dev/null; echo $?\n")
        return int(self._shell.stdout.readline())

    def close(self) -> None:
        """End the shell."""
        self._shell.communicate()


def start_program(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program that stays; it writes where the test does."""
    return subprocess.Popen(command, user=_USER, stdin=subprocess.DEVNULL)


def start_holdover(arguments: Sequence[str], output: Path = Path("/proc/self/fd/1")) -> ForkedHoldover:
    """Start a `holdover`; it writes where the test does, or to a file."""
    tempfile.tempdir = "/run"  # the fork server has its socket there; the shared file system serves none
    return ForkedHoldover(arguments, cwd=Path("/"), env=os.environ, stdout=output, stderr=output)


def run_holdover(arguments: Sequence[str]) -> tuple[int, str]:
    """The exit status of a `holdover` command, and what it writes. It runs in this process.

    A process of its own costs a user-mode kernel seconds, most of them for its pages.
    """
    written = io.StringIO()
    sys.argv = ["holdover", *arguments]
    with redirect_stdout(written), redirect_stderr(written):
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1 if end.code else 0
    return status, written.getvalue()
