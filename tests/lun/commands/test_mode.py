from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.lun.commands import mode
from holdover.lun.commands.block import Geometry
from holdover.lun.commands.mode import ModeParameters, mode_select
from holdover.scsi.cdbs.cdb import ModeSelect, ModeSense6, ModeSense10
from holdover.scsi.sense import AdditionalSense

GEOMETRY = Geometry(blocks=0x12345)
DESCRIPTOR = bytes.fromhex("0001234500000200")
CACHING = bytes.fromhex("0812 04") + bytes(17)
CONTROL = bytes.fromhex("0a0a 00 10 00 40") + bytes(6)
CHANGED = ModeParameters(write_cache=False, write_protect=True, descriptor_sense=True)


def mode_sense(
    cdb: ModeSense6 | ModeSense10, geometry: Geometry, current: ModeParameters | None = None
) -> bytes | AdditionalSense:
    return mode.mode_sense(cdb, geometry, current or ModeParameters())


@pytest.mark.parametrize("page_control", [0, 2])
@pytest.mark.parametrize(
    ("page", "subpage", "pages"),
    [
        (0x08, 0, CACHING),
        (0x0A, 0, CONTROL),
        (0x08, 0xFF, CACHING),
        (0x3F, 0, CACHING + CONTROL),
        (0x3F, 0xFF, CACHING + CONTROL),
    ],
)
def test_pages(page: int, subpage: int, pages: bytes, page_control: int) -> None:
    for dbd, descriptor in ((False, DESCRIPTOR), (True, b"")):
        body = descriptor + pages
        short = mode_sense(ModeSense6(page, subpage, 255, dbd, page_control), GEOMETRY)
        assert short == bytes([len(body) + 3, 0, 0x10, len(descriptor)]) + body
        long = mode_sense(ModeSense10(page, subpage, 255, dbd, page_control), GEOMETRY)
        assert long == bytes([0, len(body) + 6, 0, 0x10, 0, 0, 0, len(descriptor)]) + body


def test_what_can_be_changed() -> None:
    data = mode_sense(ModeSense6(0x3F, 0, 255, dbd=True, page_control=1), GEOMETRY)
    caching = bytes([0x08, 0x12, 0x04]) + bytes(17)
    control = bytes([0x0A, 0x0A, 0x04, 0, 0x08]) + bytes(7)
    assert data == bytes([35, 0, 0x10, 0]) + caching + control


def test_what_has_been_changed() -> None:
    data = mode_sense(ModeSense6(0x3F, 0, 255, dbd=True), GEOMETRY, CHANGED)
    control = bytes.fromhex("0a0a 04 10 08 40") + bytes(6)
    assert data == bytes([35, 0, 0x90, 0]) + bytes([0x08, 0x12]) + bytes(18) + control
    default = mode_sense(ModeSense6(0x3F, 0, 255, dbd=True, page_control=2), GEOMETRY, CHANGED)
    assert default == bytes([35, 0, 0x90, 0]) + CACHING + CONTROL


def test_a_medium_that_cannot_be_written() -> None:
    data = mode.mode_sense(ModeSense10(0x08, 0, 255), GEOMETRY, ModeParameters(), read_only=True)
    assert isinstance(data, bytes)
    assert data[3] == 0x90


@pytest.mark.parametrize("page", [0x08, 0x0A, 0x3F, 0x01])
def test_nothing_can_be_saved(page: int) -> None:
    cdb = ModeSense10(page, 0, 255, page_control=3)
    assert mode_sense(cdb, GEOMETRY) is AdditionalSense.SAVING_PARAMETERS_NOT_SUPPORTED


@pytest.mark.parametrize(("page", "subpage"), [(0x00, 0), (0x1C, 0), (0x0A, 1), (0x3F, 2)])
def test_a_page_that_there_is_not(page: int, subpage: int) -> None:
    assert mode_sense(ModeSense6(page, subpage, 255), GEOMETRY) is AdditionalSense.INVALID_FIELD_IN_CDB


def test_a_count_that_the_block_descriptor_cannot_hold() -> None:
    data = mode_sense(ModeSense6(0x08, 0, 255), Geometry(blocks=1 << 33))
    assert isinstance(data, bytes)
    assert data[4:12] == bytes.fromhex("ffffffff00000200")


def select(
    pages: bytes, *, descriptor: bytes = b"", size: Literal[6, 10] = 6
) -> ModeParameters | AdditionalSense:
    header = bytes([0, 0, 0x10, len(descriptor)]) if size == 6 else bytes(7) + bytes([len(descriptor)])
    data = header + descriptor + pages
    return mode_select(ModeSelect(len(data), size), data, GEOMETRY, ModeParameters())


@pytest.mark.parametrize("size", [6, 10])
@pytest.mark.parametrize("descriptor", [b"", DESCRIPTOR, bytes(4) + DESCRIPTOR[4:]])
def test_select_changes_what_can_be_changed(size: Literal[6, 10], descriptor: bytes) -> None:
    caching = bytes([0x08, 0x12]) + bytes(18)
    control = bytes.fromhex("0a0a 04 10 08 40") + bytes(6)
    assert select(caching + control, descriptor=descriptor, size=size) == CHANGED
    assert select(caching, descriptor=descriptor, size=size) == ModeParameters(write_cache=False)
    assert select(control, size=size) == ModeParameters(write_protect=True, descriptor_sense=True)
    assert select(b"", descriptor=descriptor, size=size) == ModeParameters()


def test_what_sense_gives_select_takes() -> None:
    for parameters in (ModeParameters(), CHANGED):
        for cdb in (ModeSense6(0x3F, 0, 255), ModeSense10(0x3F, 0, 255)):
            data = mode_sense(cdb, GEOMETRY, parameters)
            assert isinstance(data, bytes)
            size: Literal[6, 10] = 6 if isinstance(cdb, ModeSense6) else 10
            assert mode_select(ModeSelect(len(data), size), data, GEOMETRY, CHANGED) == parameters


@pytest.mark.parametrize("bit", range(8 * (len(CACHING) + len(CONTROL))))
def test_no_other_bit_can_be_changed(bit: int) -> None:
    pages = bytearray(CACHING + CONTROL)
    pages[bit // 8] ^= 1 << bit % 8
    after = select(bytes(pages))
    at = bit // 8
    may = {(2, 2), (22, 2), (24, 3)}
    parameters_saveable = at in (0, 20) and bit % 8 == 7
    if (at, bit % 8) in may:
        assert isinstance(after, ModeParameters)
        assert after != ModeParameters()
    elif parameters_saveable:  # PS is reserved in MODE SELECT, and initiators send back what they read
        assert after == ModeParameters()
    else:
        assert isinstance(after, AdditionalSense)


@pytest.mark.parametrize("length", range(1, 44))
def test_a_list_that_is_cut(length: int) -> None:
    data = bytes([0, 0, 0, 8]) + DESCRIPTOR + CACHING + CONTROL
    after = mode_select(ModeSelect(length, 6), data[:length], GEOMETRY, CHANGED)
    whole = {12: CHANGED, 32: ModeParameters(True, True, True)}
    assert after == whole.get(length, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    assert (
        mode_select(ModeSelect(44, 6), data[:length], GEOMETRY, CHANGED)
        is AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
    )


def test_lists_that_are_refused() -> None:
    in_list, in_cdb = AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST, AdditionalSense.INVALID_FIELD_IN_CDB
    assert select(bytes([0x1C, 0x0A]) + bytes(10)) is in_list
    assert select(CACHING, descriptor=DESCRIPTOR[:6] + b"\x10\0") is in_list
    assert select(CACHING, descriptor=b"\0" + DESCRIPTOR[1:3] + b"\1" + DESCRIPTOR[4:]) is in_list
    assert select(CACHING, descriptor=DESCRIPTOR + DESCRIPTOR) is in_list
    long = bytes([0, 0, 0, 0, 1, 0, 0, 0])
    assert mode_select(ModeSelect(8, 10), long, GEOMETRY, CHANGED) is in_list
    assert mode_select(ModeSelect(8, 10, save=True), bytes(8), GEOMETRY, CHANGED) is in_cdb
    assert mode_select(ModeSelect(8, 10, page_format=False), bytes(8), GEOMETRY, CHANGED) is in_cdb
    assert mode_select(ModeSelect(0, 10), b"", GEOMETRY, CHANGED) is CHANGED


@given(st.binary(max_size=60), st.sampled_from([6, 10]))
def test_any_list(data: bytes, size: Literal[6, 10]) -> None:
    after = mode_select(ModeSelect(len(data), size), data, GEOMETRY, CHANGED)
    assert isinstance(after, ModeParameters | AdditionalSense)
