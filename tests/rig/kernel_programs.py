"""Starting programs within a kernel of the rig."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence

__all__ = ["Shell", "start_program"]

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
