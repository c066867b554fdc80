"""QEMU's machine types, as far as they decide the default of `migrate-pr`.

A name with a version stands for the devices of that version of QEMU, whichever version runs the guest. A name
without a version means the newest. Distributions have names of their own. Such a name stands for the version
of QEMU that came with that release, if the table here has the release. For every other name the version is
not known, and `migrate-pr` is off unless the device sets it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdover.guest.options import DeviceOptionError, parse_properties

_OPTION = "--machine"
_EXAMPLES = "pc, q35, pc-q35-10.2, virt, pseries, s390-ccw-virtio"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_FAMILY = r"(?:pc-i440fx|pc-q35|virt|pseries|s390-ccw-virtio)"
_UNVERSIONED = frozenset({"pc", "q35", "virt", "pseries", "s390-ccw-virtio", "microvm"})

# The distribution decides what follows the version: Proxmox VE counts its own changes in "+pve1".
_VERSIONED = re.compile(_FAMILY + r"-([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?(?:\+[A-Za-z0-9.]+)?")

# Ubuntu adds "-hpb" (host-phys-bits) and "-v2" to its names. Red Hat adds "-sxxm" on POWER.
_DISTRIBUTION = re.compile(_FAMILY + r"-(rhel[0-9]+\.[0-9]+|[a-z]+)(?:\.[0-9]+)?(?:-[a-z0-9]+)?")

# For each release of a distribution: the version of QEMU that came with it. Its machine types stand for that.
_RELEASES = {
    "trusty": (2, 0, 0),
    "xenial": (2, 5, 0),
    "yakkety": (2, 6, 0),
    "zesty": (2, 8, 0),
    "artful": (2, 10, 0),
    "bionic": (2, 11, 0),
    "cosmic": (2, 12, 0),
    "disco": (3, 1, 0),
    "eoan": (4, 0, 0),
    "focal": (4, 2, 0),
    "groovy": (5, 0, 0),
    "hirsute": (5, 2, 0),
    "impish": (6, 0, 0),
    "jammy": (6, 2, 0),
    "kinetic": (7, 0, 0),
    "lunar": (7, 2, 0),
    "mantic": (8, 0, 0),
    "noble": (8, 2, 0),
    "oracular": (9, 0, 0),
    "plucky": (9, 2, 0),
    "questing": (10, 1, 0),
    "rhel7.0": (1, 5, 0),
    "rhel7.1": (2, 1, 0),
    "rhel7.2": (2, 3, 0),
    "rhel7.3": (2, 6, 0),
    "rhel7.4": (2, 9, 0),
    "rhel7.5": (2, 10, 0),
    "rhel7.6": (2, 12, 0),
    "rhel8.0": (3, 1, 0),
    "rhel8.1": (4, 1, 0),
    "rhel8.2": (4, 2, 0),
    "rhel8.3": (5, 1, 0),
    "rhel8.4": (5, 2, 0),
    "rhel8.5": (6, 0, 0),
    "rhel8.6": (6, 2, 0),
    "rhel9.0": (6, 2, 0),
    "rhel9.2": (7, 2, 0),
    "rhel9.4": (8, 2, 0),
    "rhel9.6": (9, 1, 0),
    "rhel10.0": (9, 1, 0),
}

# Properties of the machine that do not affect its disks. They are accepted, so that a user can copy the
# option from QEMU's command line unchanged.
_IRRELEVANT = frozenset(
    {
        "accel",
        "acpi",
        "aes-key-wrap",
        "confidential-guest-support",
        "dea-key-wrap",
        "dump-guest-core",
        "gic-version",
        "graphics",
        "hmat",
        "hpet",
        "iommu",
        "kernel-irqchip",
        "kernel_irqchip",
        "mem-merge",
        "memory-backend",
        "nvdimm",
        "pit",
        "smm",
        "suppress-vmdesc",
        "usb",
        "vmport",
    }
)

_MIGRATE_PR_SINCE = (11, 0, 0)


@dataclass(frozen=True, slots=True)
class MachineType:
    """The machine type of one guest.

    Attributes:
        name: As written: "pc-q35-10.2".
        version: Major, minor and micro version of QEMU; None for the newest, or if `known` is False.
        known: Whether the version of QEMU for which the name stands is known.
    """

    name: str
    version: tuple[int, int, int] | None
    known: bool = True

    @classmethod
    def parse(cls, text: str) -> MachineType:
        """The machine type in the value of QEMU's `--machine`.

        Raises:
            DeviceOptionError: The name is missing or cannot be a machine type, or a property is not known.
        """
        properties = parse_properties(text, _OPTION, "type")
        name = properties.pop("type", None)
        if name is None:
            raise DeviceOptionError(f"{_OPTION}: the machine type is missing; examples are {_EXAMPLES}")
        for each in properties:
            if each not in _IRRELEVANT:
                raise DeviceOptionError(f"{_OPTION} {name}: property {each!r} is not known")
        if not _NAME.fullmatch(name):
            raise DeviceOptionError(
                f"{_OPTION}: {name!r} is no name of a machine type; examples are {_EXAMPLES}"
            )
        if name in _UNVERSIONED:
            return cls(name, None)
        version = _version_of(name)
        return cls(name, version, known=version is not None)

    @property
    def migrate_pr(self) -> bool:
        """The default of `migrate-pr`: on from version 11.0, off if the version is not known."""
        return self.known and (self.version is None or self.version >= _MIGRATE_PR_SINCE)

    def __str__(self) -> str:
        return self.name


def _version_of(name: str) -> tuple[int, int, int] | None:
    match = _VERSIONED.fullmatch(name)
    if match is not None:
        major, minor, micro = match.groups()
        return int(major), int(minor), int(micro or 0)
    match = _DISTRIBUTION.fullmatch(name)
    return None if match is None else _RELEASES.get(match[1])
