"""Mode pages: MODE SENSE(6) and MODE SENSE(10) (SPC-4 6.13, 6.14, 7.5; SBC-3 6.5).

No value can be changed or saved: changeable masks are zero, and saved values are refused.
"""

from __future__ import annotations

from enum import IntEnum

from holdover.lun.block import Geometry
from holdover.scsi.cdb import ModeSense6, ModeSense10
from holdover.scsi.sense import AdditionalSense

__all__ = ["ModePage", "mode_sense"]


class ModePage(IntEnum):
    """The mode pages that there are (SPC-4 7.5.1, SBC-3 6.5.1)."""

    CACHING = 0x08
    CONTROL = 0x0A


_ALL_PAGES = 0x3F
_ALL_SUBPAGES = 0xFF
_CHANGEABLE, _SAVED = 1, 3
_DPOFUA = 0x10  # DEVICE-SPECIFIC PARAMETER: DPO and FUA are heeded, the medium can be written

_WCE = 0x04
_UNRESTRICTED_REORDERING = 0x10
_TAS = 0x40

# What follows the page code and the page length.
_PAGES: dict[ModePage, bytes] = {
    ModePage.CACHING: bytes([_WCE]).ljust(18, b"\0"),
    # TAS: a command that another nexus aborts ends in TASK ABORTED, so that no initiator is left waiting.
    ModePage.CONTROL: bytes([0, _UNRESTRICTED_REORDERING, 0, _TAS]).ljust(10, b"\0"),
}


def mode_sense(cdb: ModeSense6 | ModeSense10, geometry: Geometry) -> bytes | AdditionalSense:
    """The mode parameters that are asked for, whole, or the sense of an ILLEGAL REQUEST."""
    if cdb.page_control == _SAVED:
        return AdditionalSense.SAVING_PARAMETERS_NOT_SUPPORTED
    pages = _selected(cdb.page_code, cdb.subpage_code)
    if not pages:
        return AdditionalSense.INVALID_FIELD_IN_CDB
    body = b"".join(_encode(page, changeable=cdb.page_control == _CHANGEABLE) for page in pages)
    descriptor = b"" if cdb.dbd else _block_descriptor(geometry)
    if isinstance(cdb, ModeSense6):
        length = 3 + len(descriptor) + len(body)
        return bytes([length, 0, _DPOFUA, len(descriptor)]) + descriptor + body
    length = 6 + len(descriptor) + len(body)
    header = length.to_bytes(2, "big") + bytes([0, _DPOFUA, 0, 0]) + len(descriptor).to_bytes(2, "big")
    return header + descriptor + body


def _selected(page_code: int, subpage_code: int) -> tuple[ModePage, ...]:
    if subpage_code not in (0, _ALL_SUBPAGES):
        return ()
    if page_code == _ALL_PAGES:
        return tuple(_PAGES)
    return tuple(page for page in _PAGES if page == page_code)


def _encode(page: ModePage, changeable: bool) -> bytes:
    values = _PAGES[page]
    return bytes([page, len(values)]) + (bytes(len(values)) if changeable else values)


def _block_descriptor(geometry: Geometry) -> bytes:
    """The short form (SBC-3 6.5.2.2), which says FFFFFFFFh for a count that it cannot hold."""
    return min(geometry.blocks, 0xFFFFFFFF).to_bytes(4, "big") + geometry.block_length.to_bytes(4, "big")
