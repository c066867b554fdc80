"""What follows for a guest when a QEMU process of it appears on a host. Pure.

No agent decides when a QEMU starts whose disks come as descriptors. So the process itself shows what is to be
done: one with ``-incoming`` waits for a guest that is elsewhere, and one without starts the guest. Only this
host's own record says that a guest is here already; a guest that this host has no record of may be on
another host.
"""

from __future__ import annotations

from enum import Enum

from holdover.guest.gate import Gate


class Appearance(Enum):
    """What follows from a QEMU process that appears."""

    NOTHING = "the gate stays as it is"
    ARRIVES = "the guest is going to arrive"
    STARTS = "the guest starts here: this host claims it, and then its commands pass"


def appear(gate: Gate | None, *, incoming: bool, has_devices: bool) -> Appearance:
    """What follows for a guest whose gate is ``gate``; None: this host does not know the guest.

    ``incoming`` is whether the process waits for a migration.
    """
    if not incoming:
        return Appearance.NOTHING if gate is Gate.RUNNING else Appearance.STARTS
    # A guest with devices that runs here was migrated to this host long ago.
    arrives = gate in (None, Gate.DEPARTED) or not has_devices
    return Appearance.ARRIVES if arrives and gate is not Gate.INCOMING else Appearance.NOTHING
