"""A Linux kernel of our own, as an ordinary process: real SCSI disks without privilege.

Debian's user-mode Linux boots on this machine's file system, sets up the kernel's SCSI target (LIO) with its
loopback fabric, and runs one command, in about two seconds. Inside, the disks are the same LUNs through one
nexus after the other: with one LUN and three nexuses, /dev/sda, /dev/sdb and /dev/sdc.

The file system is shared and writable, with the rights of whoever runs the test; so the command leaves its
results in a file, and whatever else it writes is written here. /proc, /sys, /dev, /run and the network
(loopback alone) are the kernel's own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_INIT = Path(__file__).with_name("kernel_init.py")
_MODULES = Path("/usr/lib/uml/modules")
_WIDE_XSTATE = Path(__file__).with_name("wide_xstate.c")


@dataclass(frozen=True, slots=True)
class KernelRun:
    """How a command in a kernel ended.

    Attributes:
        status: Its exit status; 254 when the kernel could not be set up for it.
        output: What it has written to standard output and standard error.
    """

    status: int
    output: str


def run_in_kernel(
    command: Sequence[str],
    folder: Path,
    *,
    nexuses: int = 2,
    luns: int = 1,
    megabytes: int = 16,
    memory: str = "768M",
    timeout: float = 1200.0,
) -> KernelRun:
    """Boot, run `command`, and switch off. `folder` takes the rig's own files; it is the working directory.

    `megabytes` is the size of each LUN. The command finds the project's packages, `tests` included.
    """
    kernel = shutil.which("linux.uml")
    assert kernel is not None, "linux.uml: install the package user-mode-linux"
    settings, status, init = folder / "kernel.json", folder / "kernel.status", folder / "kernel.init"
    status.unlink(missing_ok=True)
    settings.write_text(
        json.dumps(
            {
                "command": list(command),
                "folder": str(folder),
                "status": str(status),
                "modules": str(next(_MODULES.glob("*/kernel"))),
                "nexuses": nexuses,
                "luns": luns,
                "megabytes": megabytes,
                "environment": _environment(folder),
            }
        )
    )
    init.write_text(f"#!/bin/sh\nexec {sys.executable} -S {_INIT} {settings}\n")
    init.chmod(0o755)
    options = [f"mem={memory}", "rootfstype=hostfs", "rootflags=/", "rw", f"init={init}"]
    options += ["quiet", "loglevel=1", "con=null", "con0=fd:0,fd:1"]
    output, log = _run([kernel, *options], folder, timeout, _preloaded(folder))
    if not status.exists():
        raise AssertionError(f"the kernel stopped before the command ended:\n{output}\n{log}")
    return KernelRun(int(status.read_text()), output)


def observe(
    module: str,
    folder: Path,
    *arguments: str,
    nexuses: int = 2,
    luns: int = 1,
    memory: str = "768M",
    timeout: float = 1200.0,
) -> Any:
    """Boot, run a module of ours there, and give what it has put into the JSON file of its first argument."""
    result = folder / "observed.json"
    command = [sys.executable, "-m", module, str(result), *arguments]
    done = run_in_kernel(command, folder, nexuses=nexuses, luns=luns, memory=memory, timeout=timeout)
    assert done.status == 0, f"{module} ended with {done.status}:\n{done.output}"
    return json.loads(result.read_text())


def _preloaded(folder: Path) -> dict[str, str]:
    """The environment with which the kernel starts on this machine's processor (`wide_xstate.c`)."""
    if "amx_tile" not in Path("/proc/cpuinfo").read_text():
        return {}
    compiler = shutil.which("cc")
    assert compiler is not None, "a kernel on a processor with AMX: install the packages gcc and libc6-dev"
    library = folder / "wide_xstate.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, _WIDE_XSTATE], check=True)
    return {"LD_PRELOAD": str(library)}


def _run(
    command: Sequence[str], folder: Path, timeout: float, environment: dict[str, str]
) -> tuple[str, str]:
    """What a command has written; all its processes are ended when it takes longer than `timeout`."""
    popen = subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        output, log = popen.communicate(timeout=timeout)
    except BaseException:
        os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        raise
    return output.decode(errors="replace").replace("\r\n", "\n"), log.decode(errors="replace")


def _environment(folder: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    sbin = "/usr/local/sbin:/usr/sbin:/sbin"
    return {
        **kept,
        "PATH": f"{kept.get('PATH', os.defpath)}:{sbin}",
        "PYTHONPATH": f"{_ROOT / 'src'}:{_ROOT}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(folder),
    }
