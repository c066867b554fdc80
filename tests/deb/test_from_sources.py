"""The page "Install, and run as a service": the commands that install from the sources, typed as they stand.

They are typed as root in a copy of the sources, with an /opt and an /etc/systemd/system that end with the
test. Each package that pip loads is checked against its hash, as on the page.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deb.test_distributions import ROOT, tracked
from tests.docs.typist import lines_of

pytestmark = [pytest.mark.long, pytest.mark.peer("systemd"), pytest.mark.xdist_group("deb")]

_RELOAD = "systemctl daemon-reload"
_OWN_FOLDERS = """
set -eu
mkdir -p "$STATE/upper" "$STATE/work"
mount -t overlay overlay -o "lowerdir=/opt,upperdir=$STATE/upper,workdir=$STATE/work" /opt
mkdir -p /etc/systemd/system
mount -t tmpfs tmpfs /etc/systemd/system
cd "$STATE/sources"
"""


def test_install_from_the_sources(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the page is typed as root")
    for name in tracked():
        copy = tmp_path / "sources" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    lines = list(lines_of("how-to/service.md", "From the sources"))
    assert lines[-1].endswith(f"&& {_RELOAD}")  # systemd does not run here: it looks at the units alone
    lines[-1] = lines[-1].replace(_RELOAD, "systemd-analyze verify /etc/systemd/system/holdover-*.service")
    works = "/opt/holdover/bin/holdover --version && /opt/holdover/bin/holdover agent --help >/dev/null"
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", "\n".join([_OWN_FOLDERS, *lines, works])],
        env={**os.environ, "STATE": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "holdover" in done.stdout
