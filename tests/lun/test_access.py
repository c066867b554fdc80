"""Every cell of SPC-4 tables 65 and 66, SBC-4 table 13 and SPC-2's column, restated by what they have in
common, so that a slip in the long table does not repeat itself here."""

from __future__ import annotations

import pytest

from holdover.lun.access import Standing, allowed, allowed_beside_reserve, out_allowed
from holdover.scsi.cdbs.opcodes import OperationCode as Op
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType

# Commands that neither read nor write the medium nor the device's settings: allowed in every column.
ALWAYS: dict[str, bytes] = {
    "ACCESS CONTROL IN": bytes([Op.ACCESS_CONTROL_IN]),
    "ACCESS CONTROL OUT": bytes([Op.ACCESS_CONTROL_OUT]),
    "INQUIRY": bytes([Op.INQUIRY]),
    "LOG SENSE": bytes([Op.LOG_SENSE]),
    "PERSISTENT RESERVE IN": bytes([Op.PERSISTENT_RESERVE_IN]),
    "PREVENT ALLOW MEDIUM REMOVAL 0": bytes([0x1E, 0, 0, 0, 0, 0]),
    "READ CAPACITY(10)": bytes([Op.READ_CAPACITY_10]),
    "READ CAPACITY(16)": bytes([0x9E, 0x10]),
    "RECEIVE COPY RESULTS": bytes([Op.RECEIVE_COPY_RESULTS, 0x03]),
    "REPORT ALIASES": bytes([0xA3, 0x0B]),
    "REPORT IDENTIFYING INFORMATION": bytes([0xA3, 0x05]),
    "REPORT LUNS": bytes([Op.REPORT_LUNS]),
    "REPORT PRIORITY": bytes([0xA3, 0x0E]),
    "REPORT TARGET PORT GROUPS": bytes([0xA3, 0x0A]),
    "REPORT TIMESTAMP": bytes([0xA3, 0x0F]),
    "REQUEST SENSE": bytes([Op.REQUEST_SENSE]),
    "START STOP UNIT START=1": bytes([0x1B, 0, 0, 0, 0x01, 0]),
    "TEST UNIT READY": bytes([Op.TEST_UNIT_READY]),
}
# Commands that read: Exclusive Access shuts them out, Write Exclusive does not.
READING: dict[str, bytes] = {
    "GET LBA STATUS": bytes([0x9E, 0x12]),
    "MANAGEMENT PROTOCOL IN": bytes([0xA3, 0x10]),
    "MODE SENSE(6)": bytes([Op.MODE_SENSE_6]),
    "MODE SENSE(10)": bytes([Op.MODE_SENSE_10]),
    "POPULATE TOKEN": bytes([0x83, 0x10]),
    "PRE-FETCH(10)": bytes([Op.PRE_FETCH_10]),
    "PRE-FETCH(16)": bytes([Op.PRE_FETCH_16]),
    "READ ATTRIBUTE": bytes([Op.READ_ATTRIBUTE]),
    "READ BUFFER": bytes([Op.READ_BUFFER_10]),
    "READ DEFECT DATA(10)": bytes([Op.READ_DEFECT_DATA_10]),
    "READ DEFECT DATA(12)": bytes([Op.READ_DEFECT_DATA_12]),
    "READ(6)": bytes([Op.READ_6]),
    "READ(10)": bytes([Op.READ_10]),
    "READ(12)": bytes([Op.READ_12]),
    "READ(16)": bytes([Op.READ_16]),
    "RECEIVE DIAGNOSTIC RESULTS": bytes([Op.RECEIVE_DIAGNOSTIC_RESULTS]),
    "REPORT SUPPORTED OPERATION CODES": bytes([0xA3, 0x0C]),
    "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS": bytes([0xA3, 0x0D]),
    "VERIFY(10)": bytes([Op.VERIFY_10]),
    "VERIFY(12)": bytes([Op.VERIFY_12]),
    "VERIFY(16)": bytes([Op.VERIFY_16]),
}
# Commands that write, or change what others see: both shut them out.
WRITING: dict[str, bytes] = {
    "CHANGE ALIASES": bytes([0xA4, 0x0B]),
    "COMPARE AND WRITE": bytes([Op.COMPARE_AND_WRITE]),
    "COPY OPERATION ABORT": bytes([0x83, 0x1C]),
    "EXTENDED COPY(LID1)": bytes([0x83, 0x00]),
    "EXTENDED COPY(LID4)": bytes([0x83, 0x01]),
    "FORMAT UNIT": bytes([Op.FORMAT_UNIT]),
    "LOG SELECT": bytes([Op.LOG_SELECT]),
    "MANAGEMENT PROTOCOL OUT": bytes([0xA4, 0x10]),
    "MODE SELECT(6)": bytes([Op.MODE_SELECT_6]),
    "MODE SELECT(10)": bytes([Op.MODE_SELECT_10]),
    "ORWRITE": bytes([Op.ORWRITE_16]),
    "PREVENT ALLOW MEDIUM REMOVAL 1": bytes([0x1E, 0, 0, 0, 1, 0]),
    "PREVENT ALLOW MEDIUM REMOVAL 2": bytes([0x1E, 0, 0, 0, 2, 0]),
    "REASSIGN BLOCKS": bytes([Op.REASSIGN_BLOCKS]),
    "REMOVE I_T NEXUS": bytes([0xA4, 0x0C]),
    "SANITIZE": bytes([Op.SANITIZE]),
    "SEND DIAGNOSTIC": bytes([Op.SEND_DIAGNOSTIC]),
    "SET IDENTIFYING INFORMATION": bytes([0xA4, 0x06]),
    "SET PRIORITY": bytes([0xA4, 0x0E]),
    "SET TARGET PORT GROUPS": bytes([0xA4, 0x0A]),
    "SET TIMESTAMP": bytes([0xA4, 0x0F]),
    "START STOP UNIT START=0": bytes([0x1B, 0, 0, 0, 0x00, 0]),
    "START STOP UNIT POWER CONDITION": bytes([0x1B, 0, 0, 0, 0x21, 0]),
    "SYNCHRONIZE CACHE(10)": bytes([Op.SYNCHRONIZE_CACHE_10]),
    "SYNCHRONIZE CACHE(16)": bytes([Op.SYNCHRONIZE_CACHE_16]),
    "UNMAP": bytes([Op.UNMAP]),
    "WRITE AND VERIFY(10)": bytes([Op.WRITE_AND_VERIFY_10]),
    "WRITE AND VERIFY(12)": bytes([Op.WRITE_AND_VERIFY_12]),
    "WRITE AND VERIFY(16)": bytes([Op.WRITE_AND_VERIFY_16]),
    "WRITE ATTRIBUTE": bytes([Op.WRITE_ATTRIBUTE]),
    "WRITE BUFFER": bytes([Op.WRITE_BUFFER]),
    "WRITE SAME(10)": bytes([Op.WRITE_SAME_10]),
    "WRITE SAME(16)": bytes([Op.WRITE_SAME_16]),
    "WRITE USING TOKEN": bytes([0x83, 0x11]),
    "WRITE(6)": bytes([Op.WRITE_6]),
    "WRITE(10)": bytes([Op.WRITE_10]),
    "WRITE(12)": bytes([Op.WRITE_12]),
    "WRITE(16)": bytes([Op.WRITE_16]),
}
WRITE_EXCLUSIVE = {
    ReservationType.WRITE_EXCLUSIVE,
    ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS,
}
REGISTRANTS = set(ReservationType) - {
    ReservationType.WRITE_EXCLUSIVE,
    ReservationType.EXCLUSIVE_ACCESS,
}
NOT_HOLDERS = [Standing.NOT_REGISTERED, Standing.REGISTERED]


def has_access(kind: ReservationType, standing: Standing) -> bool:
    return standing is Standing.REGISTERED and kind in REGISTRANTS


@pytest.mark.parametrize("kind", ReservationType)
@pytest.mark.parametrize("standing", NOT_HOLDERS)
class TestTables:
    @pytest.mark.parametrize("name", ALWAYS)
    def test_always_allowed(self, name: str, kind: ReservationType, standing: Standing) -> None:
        assert allowed(ALWAYS[name], kind, standing)

    @pytest.mark.parametrize("name", READING)
    def test_reading(self, name: str, kind: ReservationType, standing: Standing) -> None:
        expected = has_access(kind, standing) or kind in WRITE_EXCLUSIVE
        assert allowed(READING[name], kind, standing) is expected

    @pytest.mark.parametrize("name", WRITING)
    def test_writing(self, name: str, kind: ReservationType, standing: Standing) -> None:
        assert allowed(WRITING[name], kind, standing) is has_access(kind, standing)


@pytest.mark.parametrize("kind", ReservationType)
def test_a_holder_is_allowed_everything(kind: ReservationType) -> None:
    for cdb in [*ALWAYS.values(), *READING.values(), *WRITING.values(), b"\xff"]:
        assert allowed(cdb, kind, Standing.HOLDER)


@pytest.mark.parametrize("kind", ReservationType)
def test_a_service_action_without_a_row_conflicts(kind: ReservationType) -> None:
    assert not allowed(bytes([Op.MAINTENANCE_IN, 0x1F]), kind, Standing.NOT_REGISTERED)


def test_a_cdb_cut_after_its_operation_code_is_judged_by_zeros() -> None:
    assert allowed(bytes([Op.PREVENT_ALLOW_MEDIUM_REMOVAL]), ReservationType(3), Standing.NOT_REGISTERED)
    assert not allowed(bytes([Op.START_STOP_UNIT]), ReservationType(3), Standing.NOT_REGISTERED)


def test_beside_a_reserve_of_another_nexus() -> None:
    """SPC-2 table 10 and SBC's: TEST UNIT READY, MODE SENSE and PERSISTENT RESERVE IN conflict there."""
    passing = {
        "ACCESS CONTROL IN",
        "ACCESS CONTROL OUT",
        "INQUIRY",
        "LOG SENSE",
        "PREVENT ALLOW MEDIUM REMOVAL 0",
        "READ CAPACITY(10)",
        "READ CAPACITY(16)",
        "REPORT IDENTIFYING INFORMATION",
        "REPORT LUNS",
        "REQUEST SENSE",
        "START STOP UNIT START=1",
    }
    commands = {**ALWAYS, **READING, **WRITING}
    assert {name for name, cdb in commands.items() if allowed_beside_reserve(cdb)} == passing


@pytest.mark.parametrize(
    ("service_action", "registered", "not_registered"),
    [
        (OutServiceAction.CLEAR, True, False),
        (OutServiceAction.PREEMPT, True, False),
        (OutServiceAction.PREEMPT_AND_ABORT, True, False),
        (OutServiceAction.REGISTER, True, True),
        (OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, True, True),
        (OutServiceAction.REGISTER_AND_MOVE, False, False),
        (OutServiceAction.RELEASE, True, False),
        (OutServiceAction.RESERVE, False, False),
    ],
)
def test_table_66(service_action: OutServiceAction, registered: bool, not_registered: bool) -> None:
    assert out_allowed(service_action, registered=True) is registered
    assert out_allowed(service_action, registered=False) is not_registered
