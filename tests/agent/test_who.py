"""Whose QEMU it is, by its command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdover.agent.who import QemuIdentity, identify_process, parse_command_line


@pytest.mark.parametrize(
    ("line", "name", "uuid", "machine"),
    [
        ("qemu -name db1 -machine pc-q35-7.2", "db1", None, "pc-q35-7.2"),
        ("qemu -name guest=db1,debug-threads=on -M q35,accel=kvm -uuid 12-34", "db1", "12-34", "q35"),
        ("qemu -name db1,process=x -machine type=pc,usb=off", "db1", None, "pc"),
        ("qemu --name a,,b --machine accel=kvm,type=virt-8.0", "a,b", None, "virt-8.0"),
        ("qemu -name debug-threads=on,guest=late", "late", None, None),
        ("qemu -name debug-threads=on", None, None, None),
        ("qemu -name first -name second", "second", None, None),
        ("qemu", None, None, None),
        ("", None, None, None),
    ],
)
def test_command_lines(line: str, name: str | None, uuid: str | None, machine: str | None) -> None:
    assert parse_command_line(line.split()) == QemuIdentity(name, uuid, machine)


def test_a_running_process_is_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"/usr/bin/qemu\0-name\0guest=a b,debug-threads=on\0-m\x001\0")
    assert identify_process(7, tmp_path).name == "a b"
    assert identify_process(os.getpid()).name is None


def test_a_process_that_has_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        identify_process(7, tmp_path)
