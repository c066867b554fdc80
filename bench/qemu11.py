"""QEMU 11.1, which has `migrate-pr`, from trixie-backports, beside whatever this machine has installed.

`mmdebstrap` unpacks it and everything that it depends on into a folder outside of the repository, from the
mirror that this machine's own apt is configured with. QEMU then runs with its own loader and libraries. So it
needs no privilege, and uses the same files and sockets as any program; `chroot` into the folder works as
well.

    python -m bench.qemu11          make it, and print the folder

HOLDOVER_QEMU11 names the folder; without it, the folder is `qemu11` in the project's cache folder. If another
process is making the folder, it holds a lock (FOLDER.lock), and this one waits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from holdover.demo.machines.image import cache_folder

_RELEASE = "trixie"
# base-files makes the folder a root in which programs find their loader
_PACKAGES = ("base-files", "qemu-system-x86", "qemu-block-extra", "qemu-utils")


class Qemu11Error(Exception):
    """QEMU 11 is not available here; the text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Qemu11:
    """An unpacked QEMU 11.

    Attributes:
        folder: The root into which it was unpacked.
    """

    folder: Path

    @property
    def command(self) -> tuple[str, ...]:
        """The command to use in place of ``qemu-system-x86_64``, up to the first argument of QEMU itself."""
        data = (self.folder / "usr/share" / name for name in ("qemu", "seabios", "ipxe/qemu"))
        options = [word for folder in data for word in ("-L", str(folder))]
        return (*self.program("qemu-system-x86_64"), *options)

    def program(self, name: str) -> tuple[str, ...]:
        """The command for any program of the folder, with its own loader and libraries."""
        loader = self.folder / "lib64/ld-linux-x86-64.so.2"
        return (str(loader), "--library-path", str(self._libraries), str(self.folder / "usr/bin" / name))

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which QEMU finds its block drivers."""
        return {"QEMU_MODULE_DIR": str(self._libraries / "qemu")}

    @property
    def started(self) -> tuple[str, ...]:
        """`command` with its environment, as one command."""
        return ("env", *(f"{name}={value}" for name, value in self.environment.items()), *self.command)

    def version(self) -> str:
        """The version that QEMU itself prints.

        Raises:
            Qemu11Error: QEMU does not start.
        """
        done = subprocess.run(
            [*self.command, "--version"],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise Qemu11Error(
                f"QEMU in {self.folder} does not start: {done.stderr.strip()}; remove the folder"
            )
        return done.stdout.split("(")[0].removeprefix("QEMU emulator version").strip()

    @property
    def _libraries(self) -> Path:
        return self.folder / "usr/lib/x86_64-linux-gnu"


def qemu11_folder() -> Path:
    """The folder in which QEMU 11 is, or would be."""
    return Path(os.environ.get("HOLDOVER_QEMU11") or cache_folder() / "qemu11").resolve()


def qemu11() -> Qemu11:
    """QEMU 11, from its folder or unpacked now; unpacking fetches about 100 MB.

    Raises:
        Qemu11Error: Something is missing, or the mirror does not have it.
    """
    folder = qemu11_folder()
    made = Qemu11(folder)
    with _locked(folder):
        if not (folder / "usr/bin/qemu-system-x86_64").exists():
            _make(folder)
    made.version()
    return made


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(folder: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        raise Qemu11Error("QEMU 11: mmdebstrap not found; install the Debian package mmdebstrap")
    if platform.machine() != "x86_64":
        raise Qemu11Error(f"QEMU 11: prepared for amd64 alone, this machine is {platform.machine()}")
    mirror = _mirror()
    sources = [f"deb {mirror} {suite} main" for suite in (_RELEASE, f"{_RELEASE}-backports")]
    # This covers the dependencies too: QEMU 11 needs newer firmware than the release has.
    prefer = f'APT::Default-Release "{_RELEASE}-backports"'
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}-new-") as name:
        new = Path(name) / "root"
        command = [
            "mmdebstrap",
            "--variant=extract",
            f"--aptopt={prefer}",
            f"--include={','.join(_PACKAGES)}",
        ]
        done = subprocess.run(
            [*command, _RELEASE, str(new), "-"],
            input="\n".join(sources),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-8:])
            raise Qemu11Error(f"QEMU 11: mmdebstrap failed; is the mirror of this machine reachable?\n{last}")
        if folder.exists():
            raise Qemu11Error(f"QEMU 11: {folder} is there and has no QEMU in it; remove it")
        new.rename(folder)


def _mirror() -> str:
    """The archive from which this machine's apt takes its own release."""
    try:
        release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        listed = subprocess.run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                "Created-By: Packages",
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise Qemu11Error(f"QEMU 11: this machine's apt does not tell its mirror ({error})") from error
    for line in listed.stdout.splitlines():
        address, suite, component = line.rsplit(" ", 2)
        if suite == release and component == "main":
            return address
    raise Qemu11Error("QEMU 11: apt has no Debian mirror configured from which trixie could come")


def main() -> None:
    try:
        made = qemu11()
    except Qemu11Error as error:
        sys.exit(str(error))
    print(f"{made.folder}: QEMU {made.version()}")


if __name__ == "__main__":
    main()
