from __future__ import annotations

from pathlib import Path

import pytest

from tests.rig.kernel import run_in_kernel

pytestmark = [
    pytest.mark.peer("user-mode-linux"),
    pytest.mark.xdist_group("kernel"),
]


def test_a_command_has_its_disks_and_its_status(tmp_path: Path) -> None:
    script = 'ls /sys/block | grep sd; cat /sys/block/sda/size; pwd; echo "seen outside" > result; exit 7'
    done = run_in_kernel(["sh", "-c", script], tmp_path, nexuses=2, luns=2, megabytes=8)
    assert done.status == 7
    # one nexus after the other, two LUNs on each; sizes are in blocks of 512 bytes
    assert done.output.split()[:5] == ["sda", "sdb", "sdc", "sdd", "16384"]
    assert str(tmp_path) in done.output
    assert (tmp_path / "result").read_text() == "seen outside\n"


def test_a_kernel_that_cannot_be_set_up_says_why(tmp_path: Path) -> None:
    done = run_in_kernel(["no-such-program"], tmp_path)
    assert done.status == 254
    assert "No such file or directory: 'no-such-program'" in done.output
