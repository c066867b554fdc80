"""Mode pages: MODE SENSE and MODE SELECT (SPC-4 6.11 to 6.14, 7.5; SBC-3 6.5).

All I_T nexuses share one set of parameters. MODE SELECT can change four bits of it, and must send the current
values of the rest. Parameters cannot be saved: a request for saved values is refused, and a reset restores
the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from holdover.lun.commands.block import Geometry
from holdover.scsi.cdbs.cdb import ModeSelect, ModeSense6, ModeSense10
from holdover.scsi.sense import AdditionalSense


class ModePage(IntEnum):
    """The mode pages of the logical unit (SPC-4 7.5.1, SBC-3 6.5.1)."""

    CACHING = 0x08
    CONTROL = 0x0A


@dataclass(frozen=True, slots=True)
class ModeParameters:
    """The parameters that MODE SELECT can change.

    Attributes:
        write_cache: Writes may end in GOOD before they are on stable storage (WCE).
        write_protect: The medium is write-protected by software (SWP).
        descriptor_sense: Sense data have descriptor format (D_SENSE).
    """

    write_cache: bool = True
    write_protect: bool = False
    descriptor_sense: bool = False


_ALL_PAGES = 0x3F
_ALL_SUBPAGES = 0xFF
_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)
_WP, _DPOFUA = 0x80, 0x10  # DEVICE-SPECIFIC PARAMETER: write-protected; DPO and FUA have an effect
_LONGLBA = 0x01
_SUBPAGE_FORMAT = 0x40

_WCE = 0x04
_D_SENSE = 0x04
_UNRESTRICTED_REORDERING = 0x10
_SWP = 0x08
_TAS = 0x40

_LENGTHS: dict[ModePage, int] = {ModePage.CACHING: 18, ModePage.CONTROL: 10}


def mode_sense(
    cdb: ModeSense6 | ModeSense10, geometry: Geometry, current: ModeParameters, read_only: bool = False
) -> bytes | AdditionalSense:
    """The mode parameters that a command asks for, whole, or the sense of an ILLEGAL REQUEST.

    Args:
        cdb: The MODE SENSE command.
        geometry: The shape of the medium, for the block descriptor.
        current: The parameters in force.
        read_only: Whether the medium cannot be written, whatever the parameters say.
    """
    if cdb.page_control == _SAVED:
        return AdditionalSense.SAVING_PARAMETERS_NOT_SUPPORTED
    pages = _selected(cdb.page_code, cdb.subpage_code)
    if not pages:
        return AdditionalSense.INVALID_FIELD_IN_CDB
    shown = {_CURRENT: _pages(current), _CHANGEABLE: _MASKS, _DEFAULT: _pages(ModeParameters())}
    values = shown[cdb.page_control]
    body = b"".join(bytes([page, len(values[page])]) + values[page] for page in pages)
    descriptor = b"" if cdb.dbd else _block_descriptor(geometry)
    specific = _DPOFUA | _WP * (read_only or current.write_protect)
    if isinstance(cdb, ModeSense6):
        length = 3 + len(descriptor) + len(body)
        return bytes([length, 0, specific, len(descriptor)]) + descriptor + body
    length = 6 + len(descriptor) + len(body)
    header = length.to_bytes(2, "big") + bytes([0, specific, 0, 0]) + len(descriptor).to_bytes(2, "big")
    return header + descriptor + body


def _selected(page_code: int, subpage_code: int) -> tuple[ModePage, ...]:
    if subpage_code not in (0, _ALL_SUBPAGES):
        return ()
    if page_code == _ALL_PAGES:
        return tuple(ModePage)
    return tuple(page for page in ModePage if page == page_code)


def _pages(parameters: ModeParameters) -> dict[ModePage, bytes]:
    """The content of each page after its page code and page length."""
    return {
        ModePage.CACHING: bytes([_WCE * parameters.write_cache]).ljust(18, b"\0"),
        # TAS: a command that another nexus aborts ends in TASK ABORTED, so that its initiator does not wait.
        ModePage.CONTROL: bytes(
            [
                _D_SENSE * parameters.descriptor_sense,
                _UNRESTRICTED_REORDERING,
                _SWP * parameters.write_protect,
                _TAS,
            ]
        ).ljust(10, b"\0"),
    }


_MASKS: dict[ModePage, bytes] = {
    ModePage.CACHING: bytes([_WCE]).ljust(18, b"\0"),
    ModePage.CONTROL: bytes([_D_SENSE, 0, _SWP]).ljust(10, b"\0"),
}


def _block_descriptor(geometry: Geometry) -> bytes:
    """The short form (SBC-3 6.5.2.2); FFFFFFFFh stands for a number of blocks that does not fit."""
    return min(geometry.blocks, 0xFFFFFFFF).to_bytes(4, "big") + geometry.block_length.to_bytes(4, "big")


def mode_select(
    cdb: ModeSelect, data_out: bytes, geometry: Geometry, current: ModeParameters
) -> ModeParameters | AdditionalSense:
    """The mode parameters afterwards, or the sense of an ILLEGAL REQUEST, which changes no parameter."""
    if cdb.save or not cdb.page_format:
        return AdditionalSense.INVALID_FIELD_IN_CDB
    if not cdb.parameter_list_length:
        return current
    if len(data_out) < cdb.parameter_list_length:
        return AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
    data = data_out[: cdb.parameter_list_length]
    header = 4 if cdb.size == 6 else 8
    if len(data) < header:
        return AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
    descriptor = data[3] if cdb.size == 6 else int.from_bytes(data[6:8], "big")
    pages_at = header + descriptor
    if len(data) < pages_at:
        return AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
    long = cdb.size == 10 and bool(data[4] & _LONGLBA)
    if long or not _describes(data[header:pages_at], geometry):
        return AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
    return _apply_pages(data[pages_at:], current)


def _describes(descriptor: bytes, geometry: Geometry) -> bool:
    """Whether a block descriptor fits the medium, or is absent; a count of 0 always fits (SBC-3 6.5.2.2)."""
    if not descriptor:
        return True
    if len(descriptor) != 8:
        return False
    same = _block_descriptor(geometry)
    return descriptor[5:] == same[5:] and descriptor[:4] in (same[:4], bytes(4), b"\xff" * 4)


def _apply_pages(data: bytes, current: ModeParameters) -> ModeParameters | AdditionalSense:
    values = _pages(current)
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            return AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
        code, length = data[at], data[at + 1]
        if code & _SUBPAGE_FORMAT or code & 0x3F not in _LENGTHS:
            return AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
        page = ModePage(code & 0x3F)
        if length != _LENGTHS[page]:
            return AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
        body = data[at + 2 : at + 2 + length]
        if len(body) < length:
            return AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
        if any((new ^ old) & ~mask for new, old, mask in zip(body, values[page], _MASKS[page], strict=True)):
            return AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
        values[page] = body
        at += 2 + length
    caching, control = values[ModePage.CACHING], values[ModePage.CONTROL]
    return ModeParameters(
        write_cache=caching[0] & _WCE != 0,
        write_protect=control[2] & _SWP != 0,
        descriptor_sense=control[0] & _D_SENSE != 0,
    )
