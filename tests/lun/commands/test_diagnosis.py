from __future__ import annotations

import pytest

from holdover.lun.commands.diagnosis import send_diagnostic
from holdover.scsi.cdbs.cdb import ReportSupportedOperationCodes, SendDiagnostic, StartStopUnit
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.lun.support import A, make_unit


@pytest.mark.parametrize(
    "cdb",
    [
        SendDiagnostic(self_test=True),
        SendDiagnostic(self_test=True, device_offline=True, unit_offline=True),
        SendDiagnostic(self_test=True, page_format=True),
        SendDiagnostic(),
        SendDiagnostic(page_format=True),
    ],
)
def test_the_default_self_test_passes(cdb: SendDiagnostic) -> None:
    assert make_unit().execute(A, Command(cdb.encode())).status is Status.GOOD


def test_also_while_the_unit_is_stopped() -> None:
    unit = make_unit()
    assert unit.execute(A, Command(StartStopUnit(start=False).encode())).good
    assert unit.execute(A, Command(SendDiagnostic(self_test=True).encode())).good


@pytest.mark.parametrize("self_test", [True, False])
@pytest.mark.parametrize("code", range(1, 8))
def test_there_is_no_other_self_test(code: int, self_test: bool) -> None:
    sense = decode_sense(send_diagnostic(SendDiagnostic(self_test, code)).sense)
    assert (sense.key, sense.additional) == (SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


@pytest.mark.parametrize("self_test", [True, False])
def test_there_are_no_diagnostic_pages(self_test: bool) -> None:
    command = Command(SendDiagnostic(self_test, 0, 4, True).encode(), bytes(4))
    sense = decode_sense(make_unit().execute(A, command).sense)
    assert (sense.key, sense.additional) == (SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)


def test_it_is_among_the_supported_commands() -> None:
    asked = ReportSupportedOperationCodes(64, 1, OperationCode.SEND_DIAGNOSTIC)
    data = make_unit().execute(A, Command(asked.encode(), data_in_length=64)).data_in
    assert data[1] & 0x07 == 0b011
    assert data[4:] == bytes.fromhex("1de400ffff00")
