from __future__ import annotations

import pytest

from holdover.lun.block import Geometry
from holdover.lun.mode import mode_sense
from holdover.scsi.cdb import ModeSense6, ModeSense10
from holdover.scsi.sense import AdditionalSense

GEOMETRY = Geometry(blocks=0x12345)
DESCRIPTOR = bytes.fromhex("0001234500000200")
CACHING = bytes.fromhex("0812 04") + bytes(17)
CONTROL = bytes.fromhex("0a0a 00 10 00 40") + bytes(6)


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


def test_nothing_can_be_changed() -> None:
    data = mode_sense(ModeSense6(0x3F, 0, 255, dbd=True, page_control=1), GEOMETRY)
    assert data == bytes([35, 0, 0x10, 0, 0x08, 0x12]) + bytes(18) + bytes([0x0A, 0x0A]) + bytes(10)


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
