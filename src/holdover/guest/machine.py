"""QEMU's machine types, as far as they decide the default of `migrate-pr`.

A versioned name stands for the devices of that version of QEMU, whichever version runs it; a name
without a version means the newest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdover.guest.options import OptionError, parse_properties

__all__ = ["MachineType"]

_OPTION = "--machine"
_ACCEPTED = (
    "pc, pc-i440fx-X.Y, q35, pc-q35-X.Y, virt, virt-X.Y, pseries, pseries-X.Y,"
    " s390-ccw-virtio or s390-ccw-virtio-X.Y"
)
_UNVERSIONED = frozenset({"pc", "q35", "virt", "pseries", "s390-ccw-virtio"})
_VERSIONED = re.compile(
    r"(pc-i440fx|pc-q35|virt|pseries|s390-ccw-virtio)-([0-9]{1,3})\.([0-9]{1,3})(?:\.([0-9]{1,3}))?"
)

# Properties of the machine that have no bearing on its disks, so that the option can be copied from
# QEMU's command line as it stands.
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
        version: Major, minor and micro version, or None for the newest.
    """

    name: str
    version: tuple[int, int, int] | None

    @classmethod
    def parse(cls, text: str) -> MachineType:
        """The machine type in the value of QEMU's `--machine`.

        Raises:
            OptionError: A name, or a property after it, that is not known.
        """
        properties = parse_properties(text, _OPTION, "type")
        name = properties.pop("type", None)
        if name is None:
            raise OptionError(f"{_OPTION}: the machine type is missing; accepted are {_ACCEPTED}")
        for each in properties:
            if each not in _IRRELEVANT:
                raise OptionError(f"{_OPTION} {name}: property {each!r} is not known")
        if name in _UNVERSIONED:
            return cls(name, None)
        match = _VERSIONED.fullmatch(name)
        if match is None:
            raise OptionError(f"{_OPTION}: machine type {name!r} is not known; accepted are {_ACCEPTED}")
        major, minor, micro = match.group(2, 3, 4)
        return cls(name, (int(major), int(minor), int(micro or 0)))

    @property
    def migrate_pr(self) -> bool:
        """The default of `migrate-pr`: on from version 11.0."""
        return self.version is None or self.version >= _MIGRATE_PR_SINCE

    def __str__(self) -> str:
        return self.name
