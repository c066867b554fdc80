"""A small Linux guest, made from Debian packages: a kernel, and an initrd with busybox and sg3_utils.

The guest sees a disk by virtio-scsi, prints READY on its serial console, and then carries out the lines that
come there (`holdover.demo.machines.console`). Beside the tools the image has `workload`, which writes and
reads back blocks with checksums without pause; the head of that file describes its output. The image is made
once and kept in a cache.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

READY = "HOLDOVER-GUEST-READY"
"""The text that the guest writes on its console when it is ready to take commands there."""

# Debian's kernel for virtual machines has a third of the size of the general kernel, and boots faster.
_KERNEL_PACKAGE = "linux-image-cloud-amd64"
_SG3_TOOLS = ("sg_persist", "sg_inq", "sg_raw", "sg_turs", "sg_dd")
_PROGRAMS = {"busybox": "busybox-static", "apt-get": "apt", "dpkg-deb": "dpkg"} | dict.fromkeys(
    _SG3_TOOLS, "sg3-utils"
)
_MODULES = ("virtio_pci", "virtio_scsi", "sd_mod", "sg")
_SCRIPTS = {"init": "init", "workload": "bin/workload"}


class ImageError(Exception):
    """The guest's image cannot be made; the message says what is missing and how to get it."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """The files that QEMU boots."""

    kernel: Path
    initrd: Path


def missing_packages() -> list[str]:
    """The Debian packages to install before an image can be made; empty when nothing is missing."""
    return sorted({package for program, package in _PROGRAMS.items() if shutil.which(program) is None})


def cache_folder() -> Path:
    """The folder of the images: `holdover` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "holdover"


def guest_image(cache: Path | None = None) -> GuestImage:
    """The image, from the cache or made now. To make it takes seconds, and loads a kernel of about 27 MB.

    Raises ImageError.
    """
    if missing := missing_packages():
        raise ImageError(f"to make a guest image, install these Debian packages: {' '.join(missing)}")
    package = _kernel_package()
    folder = (cache or cache_folder()) / "guest" / f"{package}-{_recipe()}"
    if not folder.is_dir():
        _build(package, folder)
    return GuestImage(folder / "vmlinuz", folder / "initrd.gz")


def _recipe() -> str:
    """A digest of everything in this package that shapes an image, so that a change makes a new image."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for script in _SCRIPTS:
        digest.update(_script(script))
    return digest.hexdigest()[:12]


def _script(name: str) -> bytes:
    return resources.files("holdover.demo.machines").joinpath("guest_files", name).read_bytes()


def _kernel_package() -> str:
    """The package on which Debian's current kernel package depends; its name has the kernel's version."""
    listing = _output("apt-cache", "depends", _KERNEL_PACKAGE)
    found = re.search(r"Depends: (linux-image-\S+)", listing)
    if found is None:
        raise ImageError(
            f"apt does not know {_KERNEL_PACKAGE}: run `apt-get update` (this needs Debian on amd64)"
        )
    return found[1]


def _build(package: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as name:
        work = Path(name)
        root = work / "kernel"
        try:
            _output("apt-get", "download", "-qq", package, cwd=work)
        except ImageError as error:
            remedy = "if apt did not find the package, run `apt-get update` and try again"
            raise ImageError(f"{error}\n{remedy}") from error
        (archive,) = work.glob("*.deb")
        _output("dpkg-deb", "-x", str(archive), str(root))
        image = work / "image"
        image.mkdir()
        (kernel,) = root.glob("boot/vmlinuz-*")
        shutil.copyfile(kernel, image / "vmlinuz")
        (image / "initrd.gz").write_bytes(gzip.compress(_initrd(root), 1))
        try:
            image.rename(folder)
        except OSError:
            # Another process was faster, and its image is as good.
            if not folder.is_dir():
                raise


def _initrd(kernel: Path) -> bytes:
    archive = _CpioArchive()
    for place in ("dev", "proc", "sys"):
        archive.add_folder(place)
    for program in ("busybox", *_SG3_TOOLS):
        for place, path in _with_libraries(program):
            archive.add_file(place, path.read_bytes(), executable=True)
    for applet in _output("busybox", "--list").split():
        if applet != "busybox":
            archive.add_link(f"bin/{applet}", "busybox")
    for script, place in _SCRIPTS.items():
        archive.add_file(place, _script(script), executable=True)
    order = []
    for name, content in _modules(kernel):
        archive.add_file(f"modules/{name}.ko", content)
        order.append(name)
    archive.add_file("modules/order", "".join(f"{name}\n" for name in order).encode())
    return archive.finish()


def _with_libraries(program: str) -> Iterator[tuple[str, Path]]:
    """A program of this machine and the libraries that it links to, each with its path in the initrd."""
    path = Path(shutil.which(program) or program)
    yield f"bin/{program}", path
    linked = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False)
    for library in re.findall(r"/\S+", linked.stdout if linked.returncode == 0 else ""):
        yield library.lstrip("/"), Path(library)


def _modules(kernel: Path) -> Iterator[tuple[str, bytes]]:
    """The kernel modules that the guest needs, each after the modules on which it depends.

    A module that is built into the kernel is left out.
    """
    files = {_module_name(path): path for path in kernel.rglob("*.ko*")}
    done: set[str] = set()

    def load(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in files:
            return
        done.add(name)
        content = _decompressed(files[name])
        for needed in _depends(content):
            yield from load(needed)
        yield name, content

    for name in _MODULES:
        yield from load(name)


def _module_name(path: Path) -> str:
    return path.name.split(".ko", 1)[0].replace("-", "_")


def _decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _depends(module: bytes) -> list[str]:
    """The modules on which a module depends, by its .modinfo section: NUL-terminated strings NAME=VALUE."""
    found = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


class _CpioArchive:
    """An archive in the format that Linux takes as an initrd ("newc"), written without another program."""

    def __init__(self) -> None:
        self._stream = io.BytesIO()
        self._known: set[str] = set()

    def add_folder(self, place: str) -> None:
        """Add a folder and the folders above it; do nothing when it is there already."""
        if place in self._known or place in {"", "."}:
            return
        self.add_folder(str(Path(place).parent))
        self._entry(place, stat.S_IFDIR | 0o755, b"")

    def add_file(self, place: str, content: bytes, *, executable: bool = False) -> None:
        """Add a file and the folders above it; do nothing when it is there already."""
        self._in_folder(place, stat.S_IFREG | (0o755 if executable else 0o644), content)

    def add_link(self, place: str, target: str) -> None:
        """Add a symbolic link and the folders above it; do nothing when it is there already."""
        self._in_folder(place, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        """The whole archive."""
        self._entry("TRAILER!!!", 0, b"")
        return self._stream.getvalue()

    def _in_folder(self, place: str, mode: int, content: bytes) -> None:
        if place not in self._known:
            self.add_folder(str(Path(place).parent))
            self._entry(place, mode, content)

    def _entry(self, place: str, mode: int, content: bytes) -> None:
        self._known.add(place)
        name = place.encode() + b"\0"
        # ino, mode, uid, gid, nlink, mtime, filesize, dev and rdev (major, minor), namesize, check
        fields = (len(self._known), mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (header + name, content):
            self._stream.write(part + b"\0" * (-len(part) % 4))


def _output(*arguments: str, cwd: Path | None = None) -> str:
    # The callers search the output for words of the C locale.
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(arguments, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ImageError(f"{' '.join(arguments)} failed:\n{done.stderr.strip()}")
    return done.stdout
