"""The daemons of a modular libvirt, virtqemud and its like: Debian ships only their source.

They use the libraries and drivers of the libvirt that this machine has installed, or of that in a root of
Debian 13, of which this is the source package. `mmdebstrap` makes a Debian with what the build needs. It
takes about 6 minutes of processor.

    python -m tests.rig.modular_libvirt              build them, and print the folder
    python -m tests.rig.modular_libvirt --newer      those of Debian 13

HOLDOVER_VIRTQEMUD names the folder of the first; without it, they are in the project's cache folder, by
libvirt's version. The tests do not build them: they are skipped where they are not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdover.demo.machines.image import cache_folder
from tests.rig.debian_root import NEWER_RELEASE, RELEASE, newer_libvirt_root

_DAEMONS = ("virtqemud", "virtproxyd", "virtsecretd")
_PACKAGES = (
    *(
        "dpkg-dev",
        "gcc",
        "libc6-dev",
        "make",
        "meson",
        "ninja-build",
        "pkg-config",
        "gettext",
        "perl",
        "patch",
    ),
    *("libglib2.0-dev", "libxml2-dev", "libgnutls28-dev", "libtirpc-dev", "libacl1-dev"),
    *("libxml2-utils", "xsltproc", "rpcsvc-proto", "python3-docutils"),
)
_OPTIONS = (
    *("--prefix=/usr", "--sysconfdir=/etc", "--localstatedir=/var", "-Drunstatedir=/run"),
    *("--libdir=lib/x86_64-linux-gnu", "-Dauto_features=disabled", "-Dsystem=true", "-Dinit_script=none"),
    *("-Ddriver_remote=enabled", "-Ddriver_libvirtd=enabled", "-Ddriver_qemu=enabled"),
    *("-Ddriver_secrets=enabled", "-Dremote_default_mode=legacy", "-Dqemu_user=root", "-Dqemu_group=root"),
    *("-Dtests=disabled", "-Ddocs=disabled", "-Dbuildtype=plain", "-Dc_args=-O0"),
)
_BUILD = f"""
set -eu
mount -t proc proc /proc
sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >/etc/apt/sources.list.d/source.list
apt-get update
cd /root
apt-get source --print-uris "libvirt=$VERSION" | tr -d "'" | while read -r uri file _ hash; do
  # A mirror may lack the files that only describe the two archives.
  case $file in
    *.orig.tar.xz | *.debian.tar.xz) /usr/lib/apt/apt-helper download-file "$uri" "$file" "$hash" ;;
  esac
done
tar -xJf *.orig.tar.xz
cd libvirt-*/
tar -xJf ../*.debian.tar.xz
grep -v "^#" debian/patches/series | while read -r each; do patch -p1 <"debian/patches/$each"; done
meson setup build {" ".join(_OPTIONS)} $OPTIONS
cd build
ninja {" ".join(f"src/{daemon}" for daemon in _DAEMONS)}
mkdir /built
for daemon in {" ".join(_DAEMONS)}; do cp "src/$daemon" /built; done
"""


@dataclass(frozen=True, slots=True)
class _Libvirt:
    """The libvirt of a release of Debian: its version, and the features that only its build needs."""

    release: str
    version: str
    options: str
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its daemons are, or are to be."""
        given = os.environ.get("HOLDOVER_VIRTQEMUD")
        if given and self.release == RELEASE:
            return Path(given)
        return cache_folder() / "modular-libvirt" / self.version


def _libvirt(newer: Path | None) -> _Libvirt:
    show = ["dpkg-query", "--show", "--showformat=${Version}", "libvirt0"]
    if newer is not None:
        show.insert(1, f"--admindir={newer / 'var' / 'lib' / 'dpkg'}")
    version = subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip()
    if newer is None:
        return _Libvirt(RELEASE, version, "-Dyajl=enabled", ("libyajl-dev",))
    options = "-Djson_c=enabled -Dlibnl=enabled"
    return _Libvirt(NEWER_RELEASE, version, options, ("libjson-c-dev", "libnl-3-dev", "libnl-route-3-dev"))


def modular_libvirt(newer: Path | None = None) -> Path:
    """The folder of the daemons, of this machine's libvirt or of that in ``newer``, a root of Debian 13.

    The test that calls this is skipped where they were not built.
    """
    folder = _libvirt(newer).folder
    if not all((folder / daemon).exists() for daemon in _DAEMONS):
        build_it = f"python -m tests.rig.modular_libvirt{'' if newer is None else ' --newer'}"
        pytest.skip(f"needs virtqemud, which Debian does not ship: {build_it} builds it")
    return folder


def build(newer: Path | None = None) -> Path:
    """Build them unless they are there; return the folder."""
    libvirt = _libvirt(newer)
    folder = libvirt.folder
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    packages = ",".join((*_PACKAGES, *libvirt.packages))
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        root = Path(name) / "root"
        make = ["mmdebstrap", "--variant=minbase", f"--include={packages}", libvirt.release, str(root)]
        subprocess.run(make, check=True)
        enter = ["unshare", "--mount", "--pid", "--fork", "chroot", str(root), "sh", "-c", _BUILD]
        variables = {"VERSION": libvirt.version, "OPTIONS": libvirt.options}
        subprocess.run(enter, check=True, env=os.environ | variables)
        # outside of the build's folder they find the libraries of their libvirt
        shutil.copytree(root / "built", folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{build(newer_libvirt_root() if '--newer' in sys.argv[1:] else None)}\n")
