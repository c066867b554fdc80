"""Build the Debian package: a tree of files, and dpkg-deb.

Everything that runs is in /opt/holdover: a virtual environment with the packages of requirements/run.txt.
Each is checked against its hash. It uses Debian's own interpreter, so security updates of Python reach it.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deb.manual_pages import manual_pages
from holdover import __version__
from holdover.cli.completion import Shell, script

ROOT = Path(__file__).resolve().parents[1]
HOME = Path("opt/holdover")
UNITS = Path("usr/lib/systemd/system")
_FILES = Path(__file__).with_name("files")
_SCRIPTS = Path(__file__).with_name("scripts")
_COMPLETIONS: dict[Shell, str] = {
    "bash": "usr/share/bash-completion/completions/holdover",
    "zsh": "usr/share/zsh/vendor-completions/_holdover",
    "fish": "usr/share/fish/vendor_completions.d/holdover.fish",
}
_PLACES = {
    "sysusers.conf": "usr/lib/sysusers.d/holdover.conf",
    "tmpfiles.conf": "usr/lib/tmpfiles.d/holdover.conf",
    "apparmor": "etc/apparmor.d/holdover",
    "agent.toml": "usr/share/doc/holdover/examples/agent.toml",
    "copyright": "usr/share/doc/holdover/copyright",
}
_LAUNCHER = """#!/opt/holdover/bin/python -I
import sys
from holdover.cli.main import main
sys.exit(main())
"""
_CONTROL = """Package: holdover
Version: {version}
Architecture: {architecture}
Maintainer: The authors of Holdover <holdover@example.org>
Installed-Size: {size}
Depends: python3 (>= {python}), python3 (<< {next_python}), libc6 (>= {libc}), procps
Recommends: systemd
Suggests: apparmor, multipath-tools, libvirt-daemon-system, python3-libvirt, qemu-system-x86, qemu-block-extra
Section: admin
Priority: optional
Description: Keeps a virtual machine's SCSI reservations with it when it live-migrates
 The agent of a QEMU/KVM host tracks which SCSI persistent reservations each guest
 has, and moves them with the guest to another host. A reservation is never free in
 between. For Windows failover clusters, Pacemaker with fence_scsi, and others.
"""


class BuildError(Exception):
    """The package cannot be built; the text says why."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python of the Debian release for which the package is.

    Attributes:
        path: The interpreter.
        minor: 11 for Python 3.11.
    """

    path: Path
    minor: int

    @classmethod
    def find(cls, path: Path) -> Interpreter:
        """The interpreter at a path.

        Raises:
            BuildError: It does not run, or has no venv.
        """
        asked = [str(path), "-I", "-c", "import sys, venv; print(sys.version_info[1])"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise BuildError(f"{path} cannot make a virtual environment: {error}") from error
        return cls(path, int(done.stdout))


def make_tree(tree: Path, interpreter: Interpreter, work: Path) -> None:
    """Write every file of the package below ``tree``; ``work`` is a folder for what is left over."""
    _make_environment(tree / HOME, interpreter, work)
    link = tree / "usr/bin/holdover"
    link.parent.mkdir(parents=True)
    link.symlink_to("/opt/holdover/bin/holdover")
    for name, place in _PLACES.items():
        _put(tree / place, (_FILES / name).read_bytes())
    for unit in sorted((ROOT / "systemd").iterdir()):
        _put(tree / UNITS / unit.name, unit.read_bytes())
    for shell, place in _COMPLETIONS.items():
        _put(tree / place, script(shell).encode())
    for name, page in manual_pages(__version__, f"{_moment():%Y-%m-%d}").items():
        _put(tree / "usr/share/man/man1" / f"{name}.gz", gzip.compress(page.encode(), mtime=0))
    for each in sorted((ROOT / "monitoring").iterdir()):
        _put(tree / "usr/share/doc/holdover/examples" / each.name, each.read_bytes())
    for page in ("README.md", "CHANGELOG.md"):
        _put(tree / "usr/share/doc/holdover" / page, (ROOT / page).read_bytes())
    shutil.copytree(ROOT / "docs", tree / "usr/share/doc/holdover/docs")


def _make_environment(home: Path, interpreter: Interpreter, work: Path) -> None:
    _run(str(interpreter.path), "-m", "venv", "--without-pip", "--symlinks", str(home))
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin/python"), "--disable-pip-version-check"]
    install = [*pip, "install", "--quiet", "--no-compile", "--no-warn-script-location"]
    _run(*install, "--require-hashes", "--only-binary=:all:", "-r", str(ROOT / "requirements/run.txt"))
    # pip would build in the source tree and leave its own folders there
    sources = work / "sources"
    shutil.copytree(ROOT / "src", sources / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    _run(*install, "--no-deps", "--no-build-isolation", "--no-index", str(sources))
    # setuptools has built Holdover; nothing that runs needs it
    _run(*pip, "uninstall", "--quiet", "--yes", "setuptools")
    _make_relocatable(home)
    site = next(home.glob("lib/python3.*/site-packages"))
    _run(
        str(interpreter.path), "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        "-s", str(home.parents[1]), "-p", "/", str(site),
    )  # fmt: skip


def _make_relocatable(home: Path) -> None:
    """Let nothing in the environment name the folder in which it was built."""
    for each in (home / "bin").iterdir():
        if not each.name.startswith("python"):
            each.unlink()
    launcher = home / "bin/holdover"
    launcher.write_text(_LAUNCHER, encoding="ascii")
    launcher.chmod(0o755)
    settings = (home / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    kept = [line for line in settings if not line.startswith(("command =", "executable ="))]
    (home / "pyvenv.cfg").write_text("\n".join(kept) + "\n", encoding="utf-8")
    shutil.rmtree(home / "include", ignore_errors=True)
    # where pip found a package, and which files it has put where: only pip asks, which is not here
    for pattern in ("direct_url.json", "RECORD", "INSTALLER", "REQUESTED"):
        for each in home.rglob(f"*.dist-info/{pattern}"):
            each.unlink()


def pack(tree: Path, output: Path, version: str, interpreter: Interpreter, compression: str = "xz") -> Path:
    """Make the .deb file of a tree in the folder ``output``; returns its path."""
    architecture = _run("dpkg", "--print-architecture").strip()
    control = tree / "DEBIAN"
    shutil.rmtree(control, ignore_errors=True)
    for folder in [tree, *(each for each in tree.rglob("*") if each.is_dir())]:
        folder.chmod(0o755)
    kib = sum(each.lstat().st_size for each in tree.rglob("*")) // 1024
    control.mkdir()
    text = _CONTROL.format(
        version=version,
        architecture=architecture,
        size=kib,
        python=f"3.{interpreter.minor}",
        next_python=f"3.{interpreter.minor + 1}~",
        libc=_libc(tree),
    )
    _put(control / "control", text.encode())
    files = [each for each in sorted((tree / "etc").rglob("*")) if each.is_file()]
    _put(control / "conffiles", "".join(f"/{each.relative_to(tree)}\n" for each in files).encode())
    common = (_SCRIPTS / "lib.sh").read_text(encoding="utf-8")
    for name in ("postinst", "prerm", "postrm"):
        script_text = (_SCRIPTS / name).read_text(encoding="utf-8")
        script_text = script_text.replace("@LIB@\n", common).replace("@VERSION@", version)
        _put(control / name, script_text.encode(), 0o755)
    output.mkdir(parents=True, exist_ok=True)
    file = output / f"holdover_{version}_{architecture}.deb"
    os.environ.setdefault("SOURCE_DATE_EPOCH", str(int(_moment().timestamp())))
    _run("dpkg-deb", "--root-owner-group", f"-Z{compression}", "--build", str(tree), str(file))
    return file


def debian_version(revision: str) -> str:
    """The package's version: Holdover's own, and the revision of the package."""
    return re.sub(r"\.?(a|b|rc|dev)(\d+)", r"~\1\2", __version__) + f"-{revision}"


def _libc(tree: Path) -> str:
    """The oldest C library with every symbol that a program of the tree names."""
    versions = {
        int(number)
        for each in (tree / HOME).rglob("*.so*")
        for number in re.findall(rb"GLIBC_2\.(\d+)", each.read_bytes())
    }
    return f"2.{max(versions, default=36)}"


def _moment() -> datetime:
    """The time of the release: that of the last commit, or SOURCE_DATE_EPOCH; the build's without either."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        asked = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        epoch = done.stdout.strip() if done.returncode == 0 else None
    return datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)


def _put(path: Path, content: bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError as error:
        raise BuildError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        told = "\n".join(_last(error.stderr or error.stdout))
        raise BuildError(f"{' '.join(command[:6])} ... failed:\n{told}") from error


def _last(text: str) -> Iterator[str]:
    yield from text.strip().splitlines()[-20:]
