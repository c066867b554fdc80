"""INQUIRY: standard data and vital product data pages (SPC-4 6.6, 7.8, SBC-3 6.6).

The encoders return the whole data of a block device (peripheral device type 00h); the code that answers a
command cuts them to the command's allocation length. The decoders accept cut data when the rest has a
meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from holdover.scsi._designator import Association, CodeSet, Designator, DesignatorType, best_designator
from holdover.scsi.errors import DecodeError

__all__ = [
    "Association",
    "BlockDeviceCharacteristics",
    "BlockLimits",
    "CodeSet",
    "Designator",
    "DesignatorType",
    "DeviceIdentification",
    "LogicalBlockProvisioning",
    "StandardInquiry",
    "SupportedPages",
    "ThirdPartyCopy",
    "UnitSerialNumber",
    "VpdPage",
    "best_designator",
]

_VPD_HEADER = 4
_STANDARD_LENGTH = 36
_VERSION_DESCRIPTORS_AT = 58
_VERSION_DESCRIPTORS = 8


class VpdPage(IntEnum):
    """Page codes of vital product data (SPC-4 7.8.1, SBC-3 6.6.1)."""

    SUPPORTED_PAGES = 0x00
    UNIT_SERIAL_NUMBER = 0x80
    DEVICE_IDENTIFICATION = 0x83
    THIRD_PARTY_COPY = 0x8F
    BLOCK_LIMITS = 0xB0
    BLOCK_DEVICE_CHARACTERISTICS = 0xB1
    LOGICAL_BLOCK_PROVISIONING = 0xB2


@dataclass(frozen=True, slots=True)
class StandardInquiry:
    """Standard INQUIRY data (SPC-4 6.6.2): 36 bytes, or 74 with version descriptors.

    Attributes:
        vendor: T10 vendor identification, up to 8 ASCII characters.
        product: Up to 16 ASCII characters.
        revision: Up to 4 ASCII characters.
        device_type: Peripheral device type, 5 bits; 1Fh for a logical unit that does not exist.
        qualifier: Peripheral qualifier, 3 bits; 3 for a logical unit that does not exist.
        removable: The medium can be taken out (RMB).
        version: 6 is SPC-4.
        tpgs: Asymmetric access, 2 bits.
        third_party_copy: Copy commands are supported (3PC).
        protection: Protection information is supported (PROTECT).
        multi_port: More than one target port (MULTIP).
        command_queuing: CMDQUE.
        version_descriptors: Up to 8 standards, 16 bits each.
    """

    vendor: str
    product: str
    revision: str
    device_type: int = 0
    qualifier: int = 0
    removable: bool = False
    version: int = 6
    tpgs: int = 0
    third_party_copy: bool = False
    protection: bool = False
    multi_port: bool = False
    command_queuing: bool = True
    version_descriptors: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """The whole data."""
        length = _STANDARD_LENGTH
        if self.version_descriptors:
            length = _VERSION_DESCRIPTORS_AT + 2 * _VERSION_DESCRIPTORS
        data = bytearray(length)
        data[0] = self.qualifier << 5 | self.device_type
        data[1] = self.removable << 7
        data[2] = self.version
        data[3] = 0x12  # HISUP, and response data format 2: the only one that is not obsolete
        data[4] = length - 5
        data[5] = self.tpgs << 4 | self.third_party_copy << 3 | self.protection
        data[6] = self.multi_port << 4
        data[7] = self.command_queuing << 1
        data[8:16] = _padded(self.vendor, 8)
        data[16:32] = _padded(self.product, 16)
        data[32:36] = _padded(self.revision, 4)
        for index, descriptor in enumerate(self.version_descriptors):
            at = _VERSION_DESCRIPTORS_AT + 2 * index
            data[at : at + 2] = descriptor.to_bytes(2, "big")
        return bytes(data)

    @classmethod
    def decode(cls, data: bytes) -> StandardInquiry:
        """The data that a device returned; characters that are not ASCII become U+FFFD.

        Raises:
            DecodeError: There are fewer than 36 bytes.
        """
        if len(data) < _STANDARD_LENGTH:
            raise DecodeError("standard INQUIRY data", f"length of {len(data)} bytes, 36 are needed")
        descriptors = (
            int.from_bytes(data[at : at + 2], "big")
            for at in range(_VERSION_DESCRIPTORS_AT, min(len(data) - 1, 73), 2)
        )
        return cls(
            vendor=_text(data[8:16]),
            product=_text(data[16:32]),
            revision=_text(data[32:36]),
            device_type=data[0] & 0x1F,
            qualifier=data[0] >> 5,
            removable=bool(data[1] & 0x80),
            version=data[2],
            tpgs=data[5] >> 4 & 0x3,
            third_party_copy=bool(data[5] & 0x08),
            protection=bool(data[5] & 0x01),
            multi_port=bool(data[6] & 0x10),
            command_queuing=bool(data[7] & 0x02),
            version_descriptors=tuple(each for each in descriptors if each),
        )


@dataclass(frozen=True, slots=True)
class SupportedPages:
    """Page 00h (SPC-4 7.8.12).

    Attributes:
        pages: The codes of all supported pages, ascending.
    """

    pages: tuple[int, ...]

    def encode(self) -> bytes:
        """The whole page."""
        return _vpd(VpdPage.SUPPORTED_PAGES, bytes(self.pages))

    @classmethod
    def decode(cls, data: bytes) -> SupportedPages:
        """The page codes that the data contain.

        Raises:
            DecodeError: The data are not this page, or are shorter than the page's header.
        """
        return cls(tuple(_vpd_body(VpdPage.SUPPORTED_PAGES, data)))


@dataclass(frozen=True, slots=True)
class UnitSerialNumber:
    """Page 80h (SPC-4 7.8.15).

    Attributes:
        serial: ASCII, without the spaces around it.
    """

    serial: str

    def encode(self) -> bytes:
        """The whole page."""
        return _vpd(VpdPage.UNIT_SERIAL_NUMBER, self.serial.encode("ascii"))

    @classmethod
    def decode(cls, data: bytes) -> UnitSerialNumber:
        """The serial number; characters that are not ASCII become U+FFFD.

        Raises:
            DecodeError: The data are not this page, or are shorter than the page's header.
        """
        return cls(_text(_vpd_body(VpdPage.UNIT_SERIAL_NUMBER, data)))


@dataclass(frozen=True, slots=True)
class DeviceIdentification:
    """Page 83h (SPC-4 7.8.6).

    Attributes:
        designators: In the device's order, without those of a reserved type, association or code set.
        complete: Whether these are all; False when the allocation length cut the data.
    """

    designators: tuple[Designator, ...]
    complete: bool = True

    def encode(self) -> bytes:
        """The whole page."""
        return _vpd(VpdPage.DEVICE_IDENTIFICATION, b"".join(each.encode() for each in self.designators))

    @classmethod
    def decode(cls, data: bytes) -> DeviceIdentification:
        """The designators that the data contain whole.

        Raises:
            DecodeError: The data are not this page, or are shorter than the page's header.
        """
        body = _vpd_body(VpdPage.DEVICE_IDENTIFICATION, data)
        designators = []
        at = 0
        while at + 4 <= len(body) and at + 4 + body[at + 3] <= len(body):
            end = at + 4 + body[at + 3]
            designator = _decode_designator(body[at:end])
            if designator is not None:
                designators.append(designator)
            at = end
        return cls(tuple(designators), complete=at == int.from_bytes(data[2:4], "big"))


def _decode_designator(data: bytes) -> Designator | None:
    try:
        return Designator(
            DesignatorType(data[1] & 0x0F),
            Association(data[1] >> 4 & 0x3),
            CodeSet(data[0] & 0x0F),
            data[4:],
            data[0] >> 4 if data[1] & 0x80 else None,
        )
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """Page B0h (SBC-3 6.6.3): 64 bytes. 0 means "not reported", unless a field says otherwise.

    Attributes:
        maximum_compare_and_write: Blocks; 0 is "not supported".
        optimal_granularity: Blocks.
        maximum_transfer: Blocks.
        optimal_transfer: Blocks.
        maximum_prefetch: Blocks.
        maximum_unmap_blocks: Blocks; 0 is "UNMAP not supported".
        maximum_unmap_descriptors: Descriptors in one UNMAP.
        optimal_unmap_granularity: Blocks.
        unmap_alignment: The block at which the granularity starts, or None (UGAVALID 0).
        maximum_write_same: Blocks.
        write_same_non_zero: The logical unit refuses a WRITE SAME of 0 blocks (WSNZ).
    """

    maximum_compare_and_write: int = 0
    optimal_granularity: int = 0
    maximum_transfer: int = 0
    optimal_transfer: int = 0
    maximum_prefetch: int = 0
    maximum_unmap_blocks: int = 0
    maximum_unmap_descriptors: int = 0
    optimal_unmap_granularity: int = 0
    unmap_alignment: int | None = None
    maximum_write_same: int = 0
    write_same_non_zero: bool = False

    def encode(self) -> bytes:
        """The whole page."""
        alignment = 0 if self.unmap_alignment is None else 0x80000000 | self.unmap_alignment
        words = (
            self.maximum_transfer,
            self.optimal_transfer,
            self.maximum_prefetch,
            self.maximum_unmap_blocks,
            self.maximum_unmap_descriptors,
            self.optimal_unmap_granularity,
            alignment,
        )
        body = (
            bytes([self.write_same_non_zero, self.maximum_compare_and_write])
            + self.optimal_granularity.to_bytes(2, "big")
            + b"".join(word.to_bytes(4, "big") for word in words)
            + self.maximum_write_same.to_bytes(8, "big")
        )
        return _vpd(VpdPage.BLOCK_LIMITS, body.ljust(60, b"\0"))

    @classmethod
    def decode(cls, data: bytes) -> BlockLimits:
        """The limits; fields that the data lack are 0.

        Raises:
            DecodeError: The data are not this page, or are shorter than the page's header.
        """
        body = _vpd_body(VpdPage.BLOCK_LIMITS, data).ljust(60, b"\0")
        words = [int.from_bytes(body[at : at + 4], "big") for at in range(4, 32, 4)]
        return cls(
            maximum_compare_and_write=body[1],
            optimal_granularity=int.from_bytes(body[2:4], "big"),
            maximum_transfer=words[0],
            optimal_transfer=words[1],
            maximum_prefetch=words[2],
            maximum_unmap_blocks=words[3],
            maximum_unmap_descriptors=words[4],
            optimal_unmap_granularity=words[5],
            unmap_alignment=words[6] & 0x7FFFFFFF if words[6] >> 31 else None,
            maximum_write_same=int.from_bytes(body[32:40], "big"),
            write_same_non_zero=bool(body[0] & 0x01),
        )


@dataclass(frozen=True, slots=True)
class BlockDeviceCharacteristics:
    """Page B1h (SBC-3 6.6.2): 64 bytes.

    Attributes:
        rotation_rate: Revolutions per minute; 0: not reported; 1: the medium does not rotate.
        form_factor: 4 bits; 0: not reported.
        after_block_erase: What a READ does after SANITIZE with BLOCK ERASE (WABEREQ), 2 bits. 0: not
            reported; 1: it succeeds; 2 and 3: it fails until the block is written.
        after_cryptographic_erase: The same after CRYPTOGRAPHIC ERASE (WACEREQ).
    """

    rotation_rate: int = 0
    form_factor: int = 0
    after_block_erase: int = 0
    after_cryptographic_erase: int = 0

    def encode(self) -> bytes:
        """The whole page."""
        reads = self.after_block_erase << 6 | self.after_cryptographic_erase << 4
        body = self.rotation_rate.to_bytes(2, "big") + bytes([0, reads | self.form_factor])
        return _vpd(VpdPage.BLOCK_DEVICE_CHARACTERISTICS, body.ljust(60, b"\0"))

    @classmethod
    def decode(cls, data: bytes) -> BlockDeviceCharacteristics:
        """The characteristics; fields that the data lack are 0.

        Raises:
            DecodeError: The data are not this page, or are shorter than the page's header.
        """
        body = _vpd_body(VpdPage.BLOCK_DEVICE_CHARACTERISTICS, data).ljust(60, b"\0")
        return cls(int.from_bytes(body[0:2], "big"), body[3] & 0x0F, body[3] >> 6, body[3] >> 4 & 0x3)


@dataclass(frozen=True, slots=True)
class LogicalBlockProvisioning:
    """Page B2h (SBC-3 6.6.4): 8 bytes.

    Attributes:
        unmap: UNMAP is supported (LBPU).
        write_same_16: WRITE SAME(16) can unmap (LBPWS).
        write_same_10: WRITE SAME(10) can unmap (LBPWS10).
        reads_zeros: Unmapped blocks read as zeros (LBPRZ).
        anchor: Anchored blocks are supported (ANC_SUP).
        threshold_exponent: 8 bits.
        provisioning_type: 3 bits. 0: not reported, or full; 1: resource; 2: thin.
    """

    unmap: bool = False
    write_same_16: bool = False
    write_same_10: bool = False
    reads_zeros: bool = False
    anchor: bool = False
    threshold_exponent: int = 0
    provisioning_type: int = 0

    def encode(self) -> bytes:
        """The whole page."""
        able = (
            self.unmap << 7
            | self.write_same_16 << 6
            | self.write_same_10 << 5
            | self.reads_zeros << 2
            | self.anchor << 1
        )
        body = bytes([self.threshold_exponent, able, self.provisioning_type, 0])
        return _vpd(VpdPage.LOGICAL_BLOCK_PROVISIONING, body)

    @classmethod
    def decode(cls, data: bytes) -> LogicalBlockProvisioning:
        """The provisioning; fields that the data lack are 0.

        Raises:
            DecodeError: The data are not this page, or are shorter than the page's header.
        """
        body = _vpd_body(VpdPage.LOGICAL_BLOCK_PROVISIONING, data).ljust(4, b"\0")
        return cls(
            unmap=bool(body[1] & 0x80),
            write_same_16=bool(body[1] & 0x40),
            write_same_10=bool(body[1] & 0x20),
            reads_zeros=bool(body[1] & 0x04),
            anchor=bool(body[1] & 0x02),
            threshold_exponent=body[0],
            provisioning_type=body[2] & 0x07,
        )


@dataclass(frozen=True, slots=True)
class ThirdPartyCopy:
    """Page 8Fh (SPC-4 7.8.17), with the descriptors that a copy manager for EXTENDED COPY(LID1) has.

    Attributes:
        commands: Each operation code and its service actions.
        cscds: The most CSCD descriptors in one list.
        segments: The most segment descriptors in one list.
        list_length: The most bytes of all descriptors.
        types: Descriptor type codes, ascending.
        concurrent: The most copies at one time.
        segment_length: The most bytes of one segment.
        granularity: The length of a segment is a multiple of 2 to this power bytes.
    """

    commands: tuple[tuple[int, tuple[int, ...]], ...]
    cscds: int
    segments: int
    list_length: int
    types: tuple[int, ...]
    concurrent: int
    segment_length: int
    granularity: int

    def encode(self) -> bytes:
        """The whole page."""
        commands = b"".join(bytes([op, len(actions), *actions]) for op, actions in self.commands)
        parameters = self.cscds.to_bytes(2, "big") + self.segments.to_bytes(2, "big")
        parameters += self.list_length.to_bytes(4, "big") + bytes(16)
        general = self.concurrent.to_bytes(4, "big") * 2 + self.segment_length.to_bytes(4, "big")
        return _vpd(
            VpdPage.THIRD_PARTY_COPY,
            _copy_descriptor(0x0001, bytes([len(commands)]) + commands)
            + _copy_descriptor(0x0004, bytes(4) + parameters)
            + _copy_descriptor(0x0008, bytes([len(self.types), *self.types]))
            + _copy_descriptor(0x8001, general + bytes([self.granularity]) + bytes(19)),
        )


def _copy_descriptor(kind: int, body: bytes) -> bytes:
    body = body.ljust(-(-len(body) // 4) * 4, b"\0")
    return kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body


def _vpd(page: VpdPage, body: bytes) -> bytes:
    return bytes([0, page]) + len(body).to_bytes(2, "big") + body


def _vpd_body(page: VpdPage, data: bytes) -> bytes:
    structure = f"VPD page {page:02X}h"
    if len(data) < _VPD_HEADER:
        raise DecodeError(structure, f"length of {len(data)} bytes, at least {_VPD_HEADER} are needed")
    if data[1] != page:
        raise DecodeError(structure, f"page code {data[1]:02X}h", 1)
    return data[_VPD_HEADER : _VPD_HEADER + int.from_bytes(data[2:4], "big")]


def _padded(text: str, width: int) -> bytes:
    data = text.encode("ascii")
    if len(data) > width:
        raise ValueError(f"{text!r} is longer than {width} characters")
    return data.ljust(width)


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace").strip(" \0")
