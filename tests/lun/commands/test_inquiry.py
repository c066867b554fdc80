from __future__ import annotations

import pytest

from holdover.lun.commands.block import Geometry
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.scsi.inquiry import (
    Association,
    BlockDeviceCharacteristics,
    BlockLimits,
    DesignatorType,
    DeviceIdentification,
    LogicalBlockProvisioning,
    StandardInquiry,
    SupportedPages,
    UnitSerialNumber,
    best_designator,
)

IDENTITY = UnitIdentity("0123456789abcdef")
GEOMETRY = Geometry(blocks=64, maximum_transfer=2048)


def page(code: int, target_port: int = 1) -> bytes:
    data = IDENTITY.vital_product_data(code, target_port, GEOMETRY)
    assert data is not None
    return data


def test_standard_data() -> None:
    data = StandardInquiry.decode(IDENTITY.standard(ports=1))
    assert (data.vendor, data.product, data.revision) == ("HOLDOVER", "EMBEDDED LUN", "1")
    assert data.command_queuing
    assert not data.multi_port
    assert StandardInquiry.decode(IDENTITY.standard(ports=2)).multi_port


def test_every_page_that_is_said_to_be_there_is_there() -> None:
    assert SupportedPages.decode(page(0)).pages == (0x00, 0x80, 0x83, 0x8F, 0xB0, 0xB1, 0xB2)
    for code in range(256):
        data = IDENTITY.vital_product_data(code, 1, GEOMETRY)
        assert (data is not None) == (code in SupportedPages.decode(page(0)).pages)
        assert data is None or data[1] == code


def test_serial_number() -> None:
    assert UnitSerialNumber.decode(page(0x80)).serial == "0123456789abcdef"


def test_designators() -> None:
    designators = DeviceIdentification.decode(page(0x83, target_port=7)).designators
    assert [each.type for each in designators] == [
        DesignatorType.NAA,
        DesignatorType.T10,
        DesignatorType.RELATIVE_TARGET_PORT,
    ]
    naa, t10, port = designators
    assert len(naa.value) == 8
    assert naa.value[0] >> 4 == 3, "locally assigned"
    assert t10.value == b"HOLDOVER0123456789abcdef"
    assert port.association is Association.TARGET_PORT
    assert port.value == (7).to_bytes(4, "big")
    assert best_designator(designators) == naa == IDENTITY.naa


def test_the_name_follows_the_serial_number_alone() -> None:
    assert UnitIdentity("0123456789abcdef", product="OTHER").naa == IDENTITY.naa
    assert UnitIdentity("0123456789abcdee").naa != IDENTITY.naa


@pytest.mark.parametrize("serial", ["x", "x" * 64])
def test_any_serial_number_fits(serial: str) -> None:
    identity = UnitIdentity(serial)
    for code in (0x80, 0x83):
        data = identity.vital_product_data(code, 65535, GEOMETRY)
        assert data is not None
        assert serial.encode() in data


def test_block_pages() -> None:
    assert page(0x8F)[:12].hex() == "008f00580001000807830100"
    limits = BlockLimits.decode(page(0xB0))
    assert limits.maximum_transfer == 2048
    assert limits.maximum_unmap_blocks == 1 << 20
    assert limits.maximum_unmap_descriptors == 4095
    assert (limits.optimal_unmap_granularity, limits.unmap_alignment) == (8, 0)
    assert limits.maximum_compare_and_write == 255
    assert (limits.maximum_write_same, limits.write_same_non_zero) == (0xFFFF, True)
    assert BlockDeviceCharacteristics.decode(page(0xB1)) == BlockDeviceCharacteristics(
        rotation_rate=1, after_block_erase=1, after_cryptographic_erase=1
    )
    assert LogicalBlockProvisioning.decode(page(0xB2)) == LogicalBlockProvisioning(
        unmap=True, write_same_16=True, write_same_10=True, reads_zeros=True, provisioning_type=2
    )
