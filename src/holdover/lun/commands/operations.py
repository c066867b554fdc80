"""The commands of the logical unit, and the answer of REPORT SUPPORTED OPERATION CODES about them.

To add a command, add a row: the operation code, the service action or None, the effect on the medium, and the
bits of the CDB that the logical unit evaluates (SPC-4 6.35.3), with the operation code as the first byte. The
effects:

    -   neither reads nor writes blocks
    R   needs the medium to be ready
    W   changes what is on the medium, and so needs it to be writable too
"""

from __future__ import annotations

from holdover.scsi.cdbs.cdb import ReportSupportedOperationCodes
from holdover.scsi.cdbs.opcodes import (
    CopyInServiceAction,
    CopyOutServiceAction,
    InServiceAction,
    MaintenanceInServiceAction,
    OutServiceAction,
    SanitizeServiceAction,
    ServiceActionIn16,
)
from holdover.scsi.cdbs.opcodes import OperationCode as Op
from holdover.scsi.cdbs.supported import (
    SupportedCommand,
    TaskManagementFunctions,
    encode_all_commands,
    encode_one_command,
)
from holdover.scsi.sense import AdditionalSense

_ALL, _ONE, _ONE_ACTION, _ONE_OF_EITHER = range(4)
_RECOMMENDED_SECONDS, _LONG_SECONDS = 30, 86400

# operation code, service action, effect on the medium, evaluated bits of the CDB
_TABLE: tuple[tuple[Op, int | None, str, str], ...] = (
    (Op.TEST_UNIT_READY, None, "R", "00 00 00000000"),
    (Op.REQUEST_SENSE, None, "-", "03 01 0000 ff 00"),
    (Op.READ_6, None, "R", "08 1fffff ff 00"),
    (Op.WRITE_6, None, "W", "0a 1fffff ff 00"),
    (Op.INQUIRY, None, "-", "12 01 ff ffff 00"),
    (Op.MODE_SELECT_6, None, "-", "15 11 0000 ff 00"),
    (Op.RESERVE_6, None, "-", "16 11 0000 00 00"),
    (Op.RELEASE_6, None, "-", "17 11 0000 00 00"),
    (Op.MODE_SENSE_6, None, "-", "1a 08 ff ff ff 00"),
    (Op.START_STOP_UNIT, None, "-", "1b 01 00 0f f7 00"),
    (Op.SEND_DIAGNOSTIC, None, "-", "1d e4 00 ffff 00"),
    (Op.PREVENT_ALLOW_MEDIUM_REMOVAL, None, "-", "1e 00 0000 03 00"),
    (Op.READ_CAPACITY_10, None, "-", "25 00 00000000 0000 00 00"),
    (Op.READ_10, None, "R", "28 18 ffffffff 00 ffff 00"),
    (Op.WRITE_10, None, "W", "2a 18 ffffffff 00 ffff 00"),
    (Op.WRITE_AND_VERIFY_10, None, "W", "2e 16 ffffffff 00 ffff 00"),
    (Op.VERIFY_10, None, "R", "2f 16 ffffffff 00 ffff 00"),
    (Op.PRE_FETCH_10, None, "R", "34 02 ffffffff 00 ffff 00"),
    (Op.SYNCHRONIZE_CACHE_10, None, "R", "35 02 ffffffff 00 ffff 00"),
    (Op.READ_DEFECT_DATA_10, None, "R", "37 00 1f 00000000 ffff 00"),
    (Op.WRITE_SAME_10, None, "W", "41 18 ffffffff 00 ffff 00"),
    (Op.UNMAP, None, "W", "42 01 00000000 00 ffff 00"),
    (Op.SANITIZE, SanitizeServiceAction.OVERWRITE, "W", "48 bf 00000000 00 ffff 00"),
    (Op.SANITIZE, SanitizeServiceAction.BLOCK_ERASE, "W", "48 bf 00000000 00 ffff 00"),
    (Op.SANITIZE, SanitizeServiceAction.CRYPTOGRAPHIC_ERASE, "W", "48 bf 00000000 00 ffff 00"),
    (Op.SANITIZE, SanitizeServiceAction.EXIT_FAILURE_MODE, "W", "48 bf 00000000 00 ffff 00"),
    (Op.MODE_SELECT_10, None, "-", "55 11 00000000 00 ffff 00"),
    (Op.RESERVE_10, None, "-", "56 11 00000000 00 0000 00"),
    (Op.RELEASE_10, None, "-", "57 11 00000000 00 0000 00"),
    (Op.MODE_SENSE_10, None, "-", "5a 18 ff ff 000000 ffff 00"),
    *((Op.PERSISTENT_RESERVE_IN, each, "-", "5e 1f 00000000 00 ffff 00") for each in InServiceAction),
    *((Op.PERSISTENT_RESERVE_OUT, each, "-", "5f 1f ff 0000 ffffffff 00") for each in OutServiceAction),
    (Op.EXTENDED_COPY, CopyOutServiceAction.EXTENDED_COPY_LID1, "W", "83 1f" + "00" * 8 + "ffffffff 0000"),
    *(
        (Op.RECEIVE_COPY_RESULTS, action, "-", "84 1f ff" + "00" * 7 + "ffffffff 0000")
        for action in (CopyInServiceAction.COPY_STATUS_LID1, CopyInServiceAction.OPERATING_PARAMETERS)
    ),
    (Op.READ_16, None, "R", "88 18 ffffffffffffffff ffffffff 0000"),
    (Op.COMPARE_AND_WRITE, None, "W", "89 18 ffffffffffffffff 000000ff 0000"),
    (Op.WRITE_16, None, "W", "8a 18 ffffffffffffffff ffffffff 0000"),
    (Op.ORWRITE_16, None, "W", "8b 18 ffffffffffffffff ffffffff 0000"),
    (Op.WRITE_AND_VERIFY_16, None, "W", "8e 16 ffffffffffffffff ffffffff 0000"),
    (Op.VERIFY_16, None, "R", "8f 16 ffffffffffffffff ffffffff 0000"),
    (Op.PRE_FETCH_16, None, "R", "90 02 ffffffffffffffff ffffffff 0000"),
    (Op.SYNCHRONIZE_CACHE_16, None, "R", "91 02 ffffffffffffffff ffffffff 0000"),
    (Op.WRITE_SAME_16, None, "W", "93 19 ffffffffffffffff ffffffff 0000"),
    (Op.SERVICE_ACTION_IN_16, ServiceActionIn16.READ_CAPACITY_16, "-", "9e 1f" + "00" * 8 + "ffffffff 0000"),
    (Op.SERVICE_ACTION_IN_16, ServiceActionIn16.GET_LBA_STATUS, "R", "9e 1f ffffffffffffffff ffffffff 0000"),
    (Op.REPORT_LUNS, None, "-", "a0 00 ff 000000 ffffffff 0000"),
    (
        Op.MAINTENANCE_IN,
        MaintenanceInServiceAction.REPORT_SUPPORTED_OPERATION_CODES,
        "-",
        "a3 1f 87 ff ffff ffffffff 0000",
    ),
    (
        Op.MAINTENANCE_IN,
        MaintenanceInServiceAction.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
        "-",
        "a3 1f 80 00 0000 ffffffff 0000",
    ),
    (Op.READ_12, None, "R", "a8 18 ffffffff ffffffff 0000"),
    (Op.WRITE_12, None, "W", "aa 18 ffffffff ffffffff 0000"),
    (Op.WRITE_AND_VERIFY_12, None, "W", "ae 16 ffffffff ffffffff 0000"),
    (Op.VERIFY_12, None, "R", "af 16 ffffffff ffffffff 0000"),
    (Op.READ_DEFECT_DATA_12, None, "R", "b7 1f ffffffff ffffffff 0000"),
)


def _command(op: Op, action: int | None, bits: str) -> SupportedCommand:
    usage = bytearray.fromhex(bits)
    if action is not None:
        # The field of the service action contains the service action itself (SPC-4 6.35.3).
        usage[1] = usage[1] & 0xE0 | action
    seconds = _LONG_SECONDS if op is Op.SANITIZE else _RECOMMENDED_SECONDS
    return SupportedCommand(op, action, bytes(usage), recommended=seconds)


_COMMANDS = tuple(_command(op, action, bits) for op, action, _, bits in _TABLE)

OPERATIONS = frozenset(int(op) for op, _, _, _ in _TABLE)
"""All operation codes."""

READY = frozenset(int(op) for op, _, does, _ in _TABLE if does in "RW")
"""The operation codes that need the medium to be ready."""

WRITING = frozenset(int(op) for op, _, does, _ in _TABLE if does == "W")
"""The operation codes that need the medium to be writable."""

TASK_MANAGEMENT = TaskManagementFunctions(
    abort_task=True, abort_task_set=True, clear_task_set=True, logical_unit_reset=True, target_reset=True
)
"""The task management functions that the transport carries out for every logical unit."""


def report_supported(cdb: ReportSupportedOperationCodes) -> bytes | AdditionalSense:
    """The whole data of REPORT SUPPORTED OPERATION CODES, or the sense of an ILLEGAL REQUEST
    (SPC-4 6.35.1)."""
    if cdb.options == _ALL:
        return encode_all_commands(_COMMANDS, cdb.timeouts)
    if cdb.options > _ONE_OF_EITHER:
        return AdditionalSense.INVALID_FIELD_IN_CDB
    alike = [each for each in _COMMANDS if each.operation_code == cdb.operation_code]
    has_actions = bool(alike) and alike[0].service_action is not None
    if alike and cdb.options != _ONE_OF_EITHER and has_actions != (cdb.options == _ONE_ACTION):
        return AdditionalSense.INVALID_FIELD_IN_CDB
    wanted = cdb.service_action if has_actions else None
    if cdb.options == _ONE_OF_EITHER and not has_actions and cdb.service_action:
        return encode_one_command(None, cdb.timeouts)
    found = next((each for each in alike if each.service_action == wanted), None)
    return encode_one_command(found, cdb.timeouts)
