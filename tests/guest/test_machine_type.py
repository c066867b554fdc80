"""Machine types and what they say about `migrate-pr`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptionError


@pytest.mark.parametrize(
    ("text", "version", "migrate_pr"),
    [
        ("pc", None, True),
        ("q35", None, True),
        ("virt", None, True),
        ("pseries", None, True),
        ("s390-ccw-virtio", None, True),
        ("microvm", None, True),
        ("pc-q35-10.0+pve1", (10, 0, 0), False),
        ("pc-i440fx-11.0+pve0", (11, 0, 0), True),
        ("pc-i440fx-trusty", (2, 0, 0), False),
        ("pc-i440fx-xenial-hpb", (2, 5, 0), False),
        ("pc-i440fx-jammy", (6, 2, 0), False),
        ("pc-i440fx-jammy-hpb", (6, 2, 0), False),
        ("pc-q35-noble-v2", (8, 2, 0), False),
        ("s390-ccw-virtio-noble", (8, 2, 0), False),
        ("pc-i440fx-rhel7.6.0", (2, 12, 0), False),
        ("pc-q35-rhel9.4.0", (8, 2, 0), False),
        ("pseries-rhel7.6.0-sxxm", (2, 12, 0), False),
        ("virt-rhel10.0.0", (9, 1, 0), False),
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
    machine_type = MachineType.parse(text)
    assert (machine_type.name, machine_type.version, machine_type.migrate_pr) == (text, version, migrate_pr)
    assert str(machine_type) == text


@pytest.mark.parametrize(
    "text", ["pc-q35-7.2,accel=kvm", "type=pc-q35-7.2", "pc-q35-7.2,usb=off,dump-guest-core=off"]
)
def test_as_qemu_is_told(text: str) -> None:
    assert MachineType.parse(text) == MachineType("pc-q35-7.2", (7, 2, 0))


@pytest.mark.parametrize(
    "name",
    [
        "none",
        "isapc",
        "PC",
        "pc-7.2",
        "pc-q35",
        "q35-7.2",
        "pc-q35-7",
        "pc-q35-rhel99.0.0",
        "pc-i440fx-zebra",
        "pc-i440fx-rhel6.6.0",
        "pc-q35-12.0-somebody",
        "rhel9.4.0",
    ],
)
def test_of_a_name_that_says_no_version_it_is_off(name: str) -> None:
    machine_type = MachineType.parse(name)
    assert machine_type == MachineType(name, None, known=False)
    assert not machine_type.migrate_pr


@pytest.mark.parametrize("name", ["", "pc-q35-7.2 ", "-q35", "pc/q35", "+pve1"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(DeviceOptionError) as caught:
        MachineType.parse(f"type={name}")
    assert f"--machine: {name!r} is no name of a machine type; examples are pc, q35, pc-q35-10.2" in str(
        caught.value
    )


@given(st.from_regex(r"[a-z0-9.+-]{0,20}", fullmatch=True))
def test_a_name_is_on_only_where_it_says_so(name: str) -> None:
    try:
        machine_type = MachineType.parse(name)
    except DeviceOptionError:
        return
    assert str(machine_type) == name
    if machine_type.migrate_pr:
        assert machine_type.known
        assert machine_type.version is None or machine_type.version >= (11, 0, 0)
    if not machine_type.known:
        assert machine_type.version is None


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
    with pytest.raises(DeviceOptionError, match=problem):
        MachineType.parse(text)
