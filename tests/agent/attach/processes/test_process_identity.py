"""Whose QEMU it is, by its command line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdover.agent.attach.processes.process_identity import (
    NotIdentified,
    QemuIdentity,
    cgroup_of,
    identify_process,
    parse_command_line,
)


@pytest.mark.parametrize(
    ("line", "name", "uuid", "machine_type"),
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
def test_command_lines(line: str, name: str | None, uuid: str | None, machine_type: str | None) -> None:
    assert parse_command_line(line.split()) == QemuIdentity(name, uuid, machine_type)


def test_a_running_process_is_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"/usr/bin/qemu\0-name\0guest=a b,debug-threads=on\0-m\x001\0")
    assert identify_process(7, tmp_path).name == "a b"


def test_a_process_that_does_not_say_is_refused_with_what_to_do(tmp_path: Path) -> None:
    fix = r"\[\[guest\]\] helper"
    with pytest.raises(NotIdentified, match=f"process 7: .*No such file.*{fix}"):
        identify_process(7, tmp_path)
    with pytest.raises(NotIdentified, match=f"PID namespace.*{fix}"):
        identify_process(0)
    with pytest.raises(
        NotIdentified, match=f"neither -name nor -uuid; start QEMU with -name GUEST, or .*{fix}"
    ):
        identify_process(os.getpid())
    (tmp_path / "8").mkdir()
    (tmp_path / "8" / "cmdline").write_bytes(b"")
    with pytest.raises(NotIdentified, match="without a command line"):
        identify_process(8, tmp_path)


@pytest.mark.parametrize(
    ("line", "moves"),
    [
        ("qemu -M pc-q35-11.0 -device scsi-block,drive=d", True),
        ("qemu -M pc-q35-11.0 -device scsi-block,drive=d,migrate-pr=off", False),
        ("qemu -M pc-q35-11.0 -device scsi-hd,drive=d", False),
        ("qemu -M pc-q35-10.2 -device scsi-block,drive=d", False),
        ("qemu -M pc-q35-10.2 -device driver=scsi-block,migrate-pr=on,drive=d", True),
        ("qemu -M q35 -device scsi-block,drive=d", False),
        ("qemu -device scsi-block,migrate-pr=off,drive=d -device scsi-block,migrate-pr=on,drive=e", True),
        ('qemu -device {"driver":"scsi-block","migrate-pr":true}', True),
        ('qemu -M pc-q35-11.0 -device {"driver":"scsi-block","migrate-pr":false}', False),
        ("qemu -device {nonsense", False),
        ("qemu -global scsi-block.migrate-pr=on -device scsi-block,drive=d", True),
        ("qemu -M virt-11.0 -global scsi-block.migrate-pr=off -device scsi-block,drive=d", False),
    ],
)
def test_a_qemu_that_moves_reservations_itself(line: str, moves: bool) -> None:
    assert parse_command_line(line.split()).moves_itself is moves


@pytest.mark.parametrize("option", ["-incoming defer", "--incoming tcp:[::]:4444"])
def test_a_qemu_that_waits_for_a_migration(option: str) -> None:
    assert parse_command_line(f"qemu {option} -name a".split()).incoming
    assert not parse_command_line(["qemu", "-name", "incoming"]).incoming


def test_the_uuid_is_in_lower_case() -> None:
    assert parse_command_line(["qemu", "-uuid", "00AB"]).uuid == "00ab"


@pytest.mark.parametrize(
    ("text", "cgroup"),
    [
        ("0::/machine.slice/a.scope\n", "/machine.slice/a.scope"),
        ("4:cpu:/x\n1:name=systemd:/system.slice/b:c.service\n0::/\n", "/system.slice/b:c.service"),
        ("4:cpu:/x\n1:name=systemd:/d\n", "/d"),
        ("0::/\n", "/"),
        ("", ""),
        (None, ""),
    ],
)
def test_the_cgroup_of_a_process(tmp_path: Path, text: str | None, cgroup: str) -> None:
    (tmp_path / "7").mkdir()
    if text is not None:
        (tmp_path / "7" / "cgroup").write_text(text)
    assert cgroup_of(7, tmp_path) == cgroup


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("-name", "x" * 256), "its -name is longer than 255 characters"),
        (("-name", "a", "-machine", "x" * 256), "its -machine is longer than 255 characters"),
        (("-uuid", "x" * 36), "its -uuid is not a UUID"),
        (("-name", "a", "-x", "y" * (1 << 18)), "its command line is longer than 262144 bytes"),
    ],
)
def test_what_no_qemu_has_is_not_read_into_records(
    tmp_path: Path, arguments: tuple[str, ...], problem: str
) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7" / "cmdline").write_bytes(b"qemu\0" + "\0".join(arguments).encode() + b"\0")
    with pytest.raises(NotIdentified, match=problem):
        identify_process(7, tmp_path)
