"""The LUNs of a guest that has moved, as a table."""

from __future__ import annotations

from collections.abc import Iterable

from holdover.api.documents import LunState
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.terminal import PlainTable


def moved_luns(luns: Iterable[LunState]) -> PlainTable:
    """What the guest has on each LUN now: its key, its reservation, and whether they survive a power loss."""
    table = PlainTable("LUN", "KEY", "TYPE", "APTPL")
    for lun in luns:
        if not lun.migrate_pr:
            table.add_row(lun.designator, "migrate-pr=off: reservations stay")
            continue
        kind = "-" if lun.type is None else f"{ReservationType(lun.type).short_name} ({lun.type})"
        table.add_row(lun.designator, lun.key or "-", kind, "yes" if lun.aptpl else "no")
    return table
