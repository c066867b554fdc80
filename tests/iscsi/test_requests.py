"""PDUs of the initiator, byte for byte as RFC 7143 draws them."""

from __future__ import annotations

from holdover.iscsi.requests import DataOut, LoginRequest, NopOut, ScsiCommand, TaskManagementRequest


def header(pdu: ScsiCommand | DataOut | LoginRequest | NopOut | TaskManagementRequest) -> str:
    return bytes(pdu.encode()[0]).hex(" ", 4)


def test_scsi_command() -> None:
    pdu = ScsiCommand(
        task_tag=0x11,
        lun=1 << 48,
        cdb=bytes(range(16)),
        expected_length=512,
        cmd_sn=0x22,
        exp_stat_sn=0x33,
        read=True,
    )
    assert header(pdu) == (
        "01c10000 00000000 00010000 00000000 00000011 00000200 00000022 00000033 "
        "00010203 04050607 08090a0b 0c0d0e0f"
    )


def test_an_immediate_write_with_data() -> None:
    pdu = ScsiCommand(
        1, 0, bytes(16), 3, 0, write=True, final=False, attribute=2, immediate=True, data=b"abc"
    )
    buffers = pdu.encode()
    assert header(pdu)[:17] == "41220000 00000003"
    assert buffers[1:] == [b"abc", b"\0"]


def test_a_long_cdb_and_a_bidirectional_length_stand_in_additional_headers() -> None:
    pdu = ScsiCommand(1, 0, bytes(range(18)), 4, 0, read=True, write=True, read_length=0x1234)
    # Two segments, 8 bytes each: the rest of the CDB padded to whole words, and the length.
    assert bytes(pdu.encode()[0])[4:8].hex() == "04000000"
    assert bytes(pdu.encode()[0])[48:].hex(" ", 4) == "00030100 10110000 00050200 00001234"


def test_data_out() -> None:
    pdu = DataOut(
        task_tag=1, target_tag=2, lun=3 << 48, data_sn=4, offset=5, data=b"abcd", final=True, exp_stat_sn=6
    )
    assert header(pdu) == (
        "05800000 00000004 00030000 00000000 00000001 00000002 00000000 00000006 "
        "00000000 00000004 00000005 00000000"
    )


def test_login_request() -> None:
    pdu = LoginRequest(
        task_tag=1,
        isid=bytes.fromhex("80aabbccddee"),
        tsih=0x0102,
        stage=1,
        next_stage=3,
        transit=True,
        data=b"",
        cmd_sn=7,
        exp_stat_sn=8,
        connection_id=9,
    )
    assert header(pdu) == (
        "43870000 00000000 80aabbcc ddee0102 00000001 00090000 00000007 00000008 "
        "00000000 00000000 00000000 00000000"
    )


def test_task_management_request() -> None:
    pdu = TaskManagementRequest(1, 5, 2 << 48, 0xFFFFFFFF, 3, 4, 5)
    assert header(pdu) == (
        "42850000 00000000 00020000 00000000 00000001 ffffffff 00000003 00000004 "
        "00000005 00000000 00000000 00000000"
    )


def test_nop_out() -> None:
    assert header(NopOut(1, 0xFFFFFFFF, 2, 3, b"x")) == (
        "40800000 00000001 00000000 00000000 00000001 ffffffff 00000002 00000003 "
        "00000000 00000000 00000000 00000000"
    )
