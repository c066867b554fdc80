"""Which commands are harmless, and what a guest left behind is told."""

from __future__ import annotations

import pytest

from holdover.guest.gate import REFUSAL, is_harmless, is_opening_read
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command
from holdover.scsi.sense import describe_response

HARMLESS = [
    "000000000000",  # TEST UNIT READY
    "030000001200",  # REQUEST SENSE
    "120000002400",  # INQUIRY
    "1a003f00ff00",  # MODE SENSE(6)
    "25000000000000000000",  # READ CAPACITY(10)
    "4d004000000000ff0000",  # LOG SENSE
    "5a003f00000000ff0000",  # MODE SENSE(10)
    "9e100000000000000000000000200000",  # READ CAPACITY(16)
    "9e300000000000000000000000200000",  # READ CAPACITY(16), reserved bits set
    "a00000000000000010000000",  # REPORT LUNS
    "a30a00000000000010000000",  # REPORT TARGET PORT GROUPS
    "a30c00000000000010000000",  # REPORT SUPPORTED OPERATION CODES
    "a30d00000000000010000000",  # REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS
]

NOT_HARMLESS = [
    "",
    "9e",
    "a3",
    "9e120000000000000000000000200000",  # GET LBA STATUS
    "a30500000000000010000000",  # another MAINTENANCE IN
    "5e000000000000002000",  # READ KEYS
    "5e020000000000002000",  # REPORT CAPABILITIES
    "c00000000000",  # a vendor's own
    "ff",
]


@pytest.mark.parametrize("cdb", HARMLESS)
def test_harmless(cdb: str) -> None:
    assert is_harmless(Command(bytes.fromhex(cdb)))


@pytest.mark.parametrize("cdb", NOT_HARMLESS)
def test_not_harmless(cdb: str) -> None:
    assert not is_harmless(Command(bytes.fromhex(cdb)))


def test_every_operation_code_that_is_not_listed_is_not_harmless() -> None:
    listed = {int(cdb[:2], 16) for cdb in HARMLESS}
    for opcode in range(256):
        if opcode not in listed:
            assert not is_harmless(Command(bytes([opcode]) + bytes(15)))


@pytest.mark.parametrize(
    "opcode",
    [
        OperationCode.READ_10,
        OperationCode.WRITE_16,
        OperationCode.SYNCHRONIZE_CACHE_10,
        OperationCode.VERIFY_10,
        OperationCode.UNMAP,
        OperationCode.WRITE_SAME_16,
        OperationCode.COMPARE_AND_WRITE,
        OperationCode.EXTENDED_COPY,
        OperationCode.START_STOP_UNIT,
        OperationCode.MODE_SELECT_10,
        OperationCode.RESERVE_6,
        OperationCode.RELEASE_10,
        OperationCode.PERSISTENT_RESERVE_IN,
        OperationCode.PERSISTENT_RESERVE_OUT,
    ],
)
def test_medium_and_reservations(opcode: OperationCode) -> None:
    assert not is_harmless(Command(bytes([opcode]) + bytes(15)))


def test_the_refusal_in_words() -> None:
    assert describe_response(REFUSAL) == (
        "CHECK CONDITION: DATA PROTECT, LOGICAL UNIT ACCESS NOT AUTHORIZED (7h 74h/71h)"
    )


@pytest.mark.parametrize(
    ("cdb", "expected"),
    [
        ("080000000100", True),
        ("28000000000000000100", True),
        ("a80000000000000000010000", True),
        ("88000000000000000000000000010000", True),
        ("28000000000000000200", False),
        ("28000000000100000100", False),
        ("28000000000000000000", False),
        ("2a000000000000000100", False),
        ("2800", False),
        ("", False),
    ],
)
def test_what_qemu_reads_while_it_opens_a_disk(cdb: str, expected: bool) -> None:
    assert is_opening_read(Command(bytes.fromhex(cdb))) is expected
