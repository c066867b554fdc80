"""Load on a LUN by other projects' C programs, so that the load costs every server the same.

Reads are by `iscsi-perf` (package libiscsi-bin), writes by `qemu-img bench` (qemu-utils, qemu-block-extra).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_SIZE = 256 << 20
_SCATTER = 61 << 20
"""The step between writes of 4 KiB, in bytes: far apart, and no block repeats before all were written."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load: ``blocks`` of 512 bytes in each command, and ``depth`` commands in flight."""

    name: str
    write: bool
    blocks: int
    depth: int

    @property
    def program(self) -> tuple[str, str]:
        """The program that makes the load, and its Debian package."""
        return ("qemu-img", "qemu-utils") if self.write else ("iscsi-perf", "libiscsi-bin")


LOADS = (
    Load("random read 4 KiB, 1 in flight", False, 8, 1),
    Load("random read 4 KiB, 32 in flight", False, 8, 32),
    Load("sequential read 256 KiB, 16 in flight", False, 512, 16),
    Load("scattered write 4 KiB, 1 in flight", True, 8, 1),
    Load("scattered write 4 KiB, 32 in flight", True, 8, 32),
    Load("sequential write 256 KiB, 16 in flight", True, 512, 16),
)


def make_disk(file: Path) -> None:
    """Make a file that is large enough for the loads."""
    file.write_bytes(bytes(range(256)) * (_SIZE // 256))


def possible(tell: Callable[[str], None]) -> list[Load]:
    """The loads whose programs are installed; ``tell`` gets the names of the others."""
    found = []
    for load in LOADS:
        program, package = load.program
        if shutil.which(program) is None:
            tell(f"left out: {load.name}: {program} is missing (package {package})")
        else:
            found.append(load)
    return found


@dataclass(frozen=True, slots=True)
class Carried:
    """What a load came to: all commands, and those of each second."""

    commands: int
    per_second: float


def carry_out(url: str, load: Load, seconds: float) -> Carried:
    """Carry out that load on the LUN at ``url`` for about so long.

    Raises:
        subprocess.CalledProcessError: The program failed.
        RuntimeError: The program printed no figure.
    """
    return (_write if load.write else _read)(url, load, seconds)


def _read(url: str, load: Load, seconds: float) -> Carried:
    random = ["-r"] if load.blocks == 8 else []
    command = [
        "iscsi-perf",
        "-t",
        str(whole := max(1, round(seconds))),
        *random,
        "-b",
        str(load.blocks),
        "-m",
        str(load.depth),
    ]
    output = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"iops average (\d+)", output)
    if not found:
        raise RuntimeError(f"iscsi-perf told no figure:\n{output}")
    return Carried(int(found[-1]) * whole, float(found[-1]))


def _write(url: str, load: Load, seconds: float) -> Carried:
    size = load.blocks * 512
    step = ["-S", str(_SCATTER + size)] if load.blocks == 8 else []

    def run(count: int) -> float:
        command = [
            "qemu-img",
            "bench",
            "-w",
            "-f",
            "raw",
            "-t",
            "none",
            "-c",
            str(count),
            "-d",
            str(load.depth),
        ]
        output = subprocess.run(
            [*command, "-s", str(size), *step, url], capture_output=True, text=True, check=True
        ).stdout
        found = re.search(r"Run completed in ([\d.]+) seconds", output)
        if found is None:
            raise RuntimeError(f"qemu-img bench told no figure:\n{output}")
        return count / max(float(found[1]), 0.001)

    # A first short run gives the count of commands that takes about as long as asked for.
    first = 200
    count = max(200, round(run(first) * seconds))
    return Carried(first + count, run(count))
