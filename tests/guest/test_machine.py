"""Machine types and what they say about `migrate-pr`."""

from __future__ import annotations

import pytest

from holdover.guest.machine import MachineType
from holdover.guest.options import OptionError


@pytest.mark.parametrize(
    ("text", "version", "migrate_pr"),
    [
        ("pc", None, True),
        ("q35", None, True),
        ("virt", None, True),
        ("pseries", None, True),
        ("s390-ccw-virtio", None, True),
        ("pc-i440fx-2.11", (2, 11, 0), False),
        ("pc-i440fx-11.0", (11, 0, 0), True),
        ("pc-q35-7.2", (7, 2, 0), False),
        ("pc-q35-4.0.1", (4, 0, 1), False),
        ("pc-q35-10.2", (10, 2, 0), False),
        ("pc-q35-11.0", (11, 0, 0), True),
        ("pc-q35-11.1", (11, 1, 0), True),
        ("virt-9.0", (9, 0, 0), False),
        ("virt-12.0", (12, 0, 0), True),
        ("pseries-10.2", (10, 2, 0), False),
        ("pseries-11.0", (11, 0, 0), True),
        ("s390-ccw-virtio-10.2", (10, 2, 0), False),
        ("s390-ccw-virtio-11.0", (11, 0, 0), True),
    ],
)
def test_machine_types(text: str, version: tuple[int, int, int] | None, migrate_pr: bool) -> None:
    machine = MachineType.parse(text)
    assert (machine.name, machine.version, machine.migrate_pr) == (text, version, migrate_pr)
    assert str(machine) == text


@pytest.mark.parametrize(
    "text", ["pc-q35-7.2,accel=kvm", "type=pc-q35-7.2", "pc-q35-7.2,usb=off,dump-guest-core=off"]
)
def test_as_qemu_is_told(text: str) -> None:
    assert MachineType.parse(text) == MachineType("pc-q35-7.2", (7, 2, 0))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "none",
        "isapc",
        "microvm",
        "PC",
        "pc-7.2",
        "pc-q35",
        "q35-7.2",
        "pc-q35-7",
        "pc-q35-rhel9.4.0",
        "pc-q35-7.2 ",
    ],
)
def test_an_unknown_name_is_refused_by_name(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        MachineType.parse(f"type={name}")
    assert f"--machine: machine type {name!r} is not known; accepted are pc, pc-i440fx-X.Y, q35" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pc,migrate-pr=on", "--machine pc: property 'migrate-pr' is not known"),
        ("pc,type=q35", "property 'type' is given twice"),
        ("accel=kvm", "the machine type is missing"),
        ("pc,accel", "property 'accel' has no value"),
    ],
)
def test_properties(text: str, problem: str) -> None:
    with pytest.raises(OptionError, match=problem):
        MachineType.parse(text)
