"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS data (SPC-4 6.35, 6.36)."""

from __future__ import annotations

from holdover.scsi.cdbs.supported import (
    SupportedCommand,
    TaskManagementFunctions,
    encode_all_commands,
    encode_one_command,
)

READ = SupportedCommand(0x28, None, bytes.fromhex("28180000000000000000"), 1, 30)
RESERVE = SupportedCommand(0x5F, 1, bytes.fromhex("5f010000000000000000"))
TIMEOUTS = "000a0000000000010000001e"


def test_all_commands() -> None:
    rows = ["280000000000000a", "5f0000010001000a"]
    assert encode_all_commands([READ, RESERVE], timeouts=False).hex() == "00000010" + "".join(rows)
    with_timeouts = encode_all_commands([READ, RESERVE], timeouts=True).hex()
    assert with_timeouts == (
        "00000028" + "280000000002000a" + TIMEOUTS + "5f0000010003000a" + "000a" + "00" * 10
    )


def test_one_command() -> None:
    assert encode_one_command(READ, timeouts=False).hex() == "0003000a" + READ.usage.hex()
    assert encode_one_command(READ, timeouts=True).hex() == "0083000a" + READ.usage.hex() + TIMEOUTS
    assert encode_one_command(None, timeouts=True).hex() == "00010000"


def test_task_management_functions() -> None:
    assert TaskManagementFunctions().encode().hex() == "00000000"
    assert TaskManagementFunctions(abort_task=True, target_reset=True).encode().hex() == "82000000"
    everything = TaskManagementFunctions(True, True, True, True, True)
    assert everything.encode(extended=True).hex() == "da00000c" + "00" * 12
