"""The INQUIRY data of a logical unit (SPC-4 6.6, 7.8; SBC-3 6.6).

The designators are derived only from the serial number. So a logical unit with the same serial number has the
same identity for the hosts, wherever its file is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from holdover.lun.commands.block import Geometry
from holdover.lun.commands.copy import THIRD_PARTY_COPY
from holdover.lun.commands.provisioning import MAXIMUM_UNMAP_DESCRIPTORS
from holdover.scsi.inquiry import (
    Association,
    BlockDeviceCharacteristics,
    BlockLimits,
    CodeSet,
    Designator,
    DesignatorType,
    DeviceIdentification,
    LogicalBlockProvisioning,
    StandardInquiry,
    SupportedPages,
    UnitSerialNumber,
    VpdPage,
)

# SAM-5, SPC-4, SBC-3, iSCSI: "no version claimed" of each (SPC-4 6.6.2 table 143).
_STANDARDS = (0x00A0, 0x0460, 0x04C0, 0x0960)
_NAA_LOCALLY_ASSIGNED = 0x3 << 60
_NO_ROTATION = 1
_READS_SUCCEED = 1
_THIN = 2
_FILE_SYSTEM_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class UnitIdentity:
    """The identity of a logical unit.

    Attributes:
        serial: Unit serial number: 1 to 64 printable ASCII characters, unique among all logical units
            that a host can see.
        vendor: T10 vendor identification, up to 8 ASCII characters.
        product: Product identification, up to 16 ASCII characters.
        revision: Product revision level, up to 4 ASCII characters.
    """

    serial: str
    vendor: str = "HOLDOVER"
    product: str = "EMBEDDED LUN"
    revision: str = "1"

    @property
    def naa(self) -> Designator:
        """The designator by which hosts recognise the logical unit.

        It is a locally assigned NAA designator (SPC-4 7.8.6.6.4), because the project has no company
        identifier of the IEEE and borrows none.
        """
        digest = hashlib.sha256(self.serial.encode()).digest()
        name = _NAA_LOCALLY_ASSIGNED | int.from_bytes(digest[:8], "big") >> 4
        return Designator(
            DesignatorType.NAA, Association.LOGICAL_UNIT, CodeSet.BINARY, name.to_bytes(8, "big")
        )

    def designators(self, target_port: int) -> tuple[Designator, ...]:
        """The designators of page 83h, as seen through one target port."""
        t10 = self.vendor.ljust(8) + self.serial
        return (
            self.naa,
            Designator(DesignatorType.T10, Association.LOGICAL_UNIT, CodeSet.ASCII, t10.encode("ascii")),
            Designator(
                DesignatorType.RELATIVE_TARGET_PORT,
                Association.TARGET_PORT,
                CodeSet.BINARY,
                target_port.to_bytes(4, "big"),
            ),
        )

    def standard(self, ports: int) -> bytes:
        """Standard INQUIRY data of a logical unit behind this number of target ports."""
        return StandardInquiry(
            self.vendor,
            self.product,
            self.revision,
            third_party_copy=True,
            multi_port=ports > 1,
            version_descriptors=_STANDARDS,
        ).encode()

    def vital_product_data(self, page: int, target_port: int, geometry: Geometry) -> bytes | None:
        """A whole page of vital product data; None when the logical unit does not have the page."""
        match page:
            case VpdPage.SUPPORTED_PAGES:
                return SupportedPages(tuple(VpdPage)).encode()
            case VpdPage.UNIT_SERIAL_NUMBER:
                return UnitSerialNumber(self.serial).encode()
            case VpdPage.DEVICE_IDENTIFICATION:
                return DeviceIdentification(self.designators(target_port)).encode()
            case VpdPage.THIRD_PARTY_COPY:
                return THIRD_PARTY_COPY.encode()
            case VpdPage.BLOCK_LIMITS:
                return _block_limits(geometry).encode()
            case VpdPage.BLOCK_DEVICE_CHARACTERISTICS:
                return BlockDeviceCharacteristics(
                    rotation_rate=_NO_ROTATION,
                    after_block_erase=_READS_SUCCEED,
                    after_cryptographic_erase=_READS_SUCCEED,
                ).encode()
            case VpdPage.LOGICAL_BLOCK_PROVISIONING:
                return LogicalBlockProvisioning(
                    unmap=True,
                    write_same_16=True,
                    write_same_10=True,
                    reads_zeros=True,
                    provisioning_type=_THIN,
                ).encode()
        return None


def _block_limits(geometry: Geometry) -> BlockLimits:
    grain = _FILE_SYSTEM_BLOCK // geometry.block_length
    return BlockLimits(
        maximum_compare_and_write=geometry.maximum_compare_and_write,
        optimal_granularity=grain,
        maximum_transfer=geometry.maximum_transfer,
        optimal_transfer=geometry.maximum_transfer // 8,
        maximum_unmap_blocks=geometry.maximum_unmap,
        maximum_unmap_descriptors=MAXIMUM_UNMAP_DESCRIPTORS,
        optimal_unmap_granularity=grain,
        unmap_alignment=0,
        maximum_write_same=geometry.maximum_write_same,
        write_same_non_zero=True,
    )
