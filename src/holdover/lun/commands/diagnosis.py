"""The reports of a logical unit about its own health: SEND DIAGNOSTIC and READ DEFECT DATA, pure."""

from __future__ import annotations

from holdover.lun.commands.answers import GOOD, data_in, illegal
from holdover.scsi.block import DefectList
from holdover.scsi.cdbs.cdb import ReadDefectData, SendDiagnostic
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense


def send_diagnostic(cdb: SendDiagnostic) -> Response:
    """SEND DIAGNOSTIC (SPC-4 6.42): the default self-test, which every disk has, passes.

    The other self-tests need the Self-Test Results log page, and diagnostic pages need RECEIVE DIAGNOSTIC
    RESULTS. The logical unit has neither, so it refuses both. A command that asks for nothing is not an
    error.
    """
    if cdb.self_test_code or cdb.parameter_list_length:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    return GOOD


def read_defect_data(cdb: ReadDefectData) -> Response:
    """READ DEFECT DATA(10), (12) (SBC-3 5.17, 5.18): a file has no defects."""
    defects = DefectList(cdb.format, cdb.primary, cdb.grown)
    data = defects.encode_10() if cdb.size == 10 else defects.encode_12()
    return data_in(data, cdb.allocation_length)
