"""The daemons of a modular libvirt, virtqemud and its like: Debian ships only their source.

They use the libraries and drivers of the libvirt that this machine has installed, of which this is the source
package. `mmdebstrap` makes a Debian with what the build needs. It takes about 6 minutes of processor.

    python -m tests.rig.modular_libvirt      build them, and print the folder

HOLDOVER_VIRTQEMUD names the folder; without it, it is in the project's cache folder, by libvirt's version.
The tests do not build it: they are skipped where it is not there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from holdover.demo.machines.image import cache_folder

_RELEASE = "bookworm"
_DAEMONS = ("virtqemud", "virtproxyd", "virtsecretd")
_PACKAGES = (
    *("dpkg-dev", "gcc", "libc6-dev", "make", "meson", "ninja-build", "pkg-config", "gettext", "perl"),
    *("libglib2.0-dev", "libxml2-dev", "libgnutls28-dev", "libtirpc-dev", "libyajl-dev", "libacl1-dev"),
    *("libxml2-utils", "xsltproc", "rpcsvc-proto", "python3-docutils"),
)
_OPTIONS = (
    *("--prefix=/usr", "--sysconfdir=/etc", "--localstatedir=/var", "-Drunstatedir=/run"),
    *("--libdir=lib/x86_64-linux-gnu", "-Dauto_features=disabled", "-Dsystem=true", "-Dinit_script=none"),
    *("-Ddriver_remote=enabled", "-Ddriver_libvirtd=enabled", "-Ddriver_qemu=enabled", "-Dyajl=enabled"),
    *("-Ddriver_secrets=enabled", "-Dremote_default_mode=legacy", "-Dqemu_user=root", "-Dqemu_group=root"),
    *("-Dtests=disabled", "-Ddocs=disabled", "-Dbuildtype=plain", "-Dc_args=-O0"),
)
_BUILD = f"""
set -eu
mount -t proc proc /proc
sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >/etc/apt/sources.list.d/source.list
apt-get update
cd /root
apt-get source "libvirt=$VERSION"
cd libvirt-*/
meson setup build {" ".join(_OPTIONS)}
cd build
ninja {" ".join(f"src/{daemon}" for daemon in _DAEMONS)}
mkdir /built
for daemon in {" ".join(_DAEMONS)}; do cp "src/$daemon" /built; done
"""


def modular_libvirt() -> Path:
    """The folder of the daemons; the test that calls this is skipped where they were not built."""
    folder = _folder()
    if not all((folder / daemon).exists() for daemon in _DAEMONS):
        pytest.skip(
            "needs virtqemud, which Debian does not ship: python -m tests.rig.modular_libvirt builds it"
        )
    return folder


def _folder() -> Path:
    if given := os.environ.get("HOLDOVER_VIRTQEMUD"):
        return Path(given)
    return cache_folder() / "modular-libvirt" / _version()


def _version() -> str:
    show = ["dpkg-query", "--show", "--showformat=${Version}", "libvirt0"]
    return subprocess.run(show, capture_output=True, text=True, check=False).stdout.strip()


def build() -> Path:
    """Build them unless they are there; return the folder."""
    folder = _folder()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as name:
        root = Path(name) / "root"
        make = ["mmdebstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _RELEASE, str(root)]
        subprocess.run(make, check=True)
        enter = ["unshare", "--mount", "--pid", "--fork", "chroot", str(root), "sh", "-c", _BUILD]
        subprocess.run(enter, check=True, env={**os.environ, "VERSION": _version()})
        # outside of the build's folder they find the libraries of this machine
        shutil.copytree(root / "built", folder)
    return folder


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
