"""Hypothesis strategies for PDUs and what they are made of."""

from __future__ import annotations

from hypothesis import strategies as st

from holdover.iscsi.pdu import Pdu
from holdover.iscsi.requests import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from holdover.iscsi.responses import (
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutResponsePdu,
    NopIn,
    ReadyToTransfer,
    Reject,
    ScsiResponse,
    TaskManagementResponsePdu,
    TextResponse,
)

_u8 = st.integers(0, 0xFF)
_u16 = st.integers(0, 0xFFFF)
_u32 = st.integers(0, 0xFFFF_FFFF)
_u64 = st.integers(0, 0xFFFF_FFFF_FFFF_FFFF)
_data = st.binary(max_size=100)
_flag = st.booleans()
_stage = st.integers(0, 3)
_isid = st.binary(min_size=6, max_size=6)


def _padded_cdb(cdb: bytes) -> bytes:
    return cdb + bytes(16 - len(cdb)) if len(cdb) < 16 else cdb


requests: st.SearchStrategy[Pdu] = st.one_of(
    st.builds(
        ScsiCommand,
        task_tag=_u32,
        lun=_u64,
        cdb=st.binary(max_size=260).map(_padded_cdb),
        expected_length=_u32,
        cmd_sn=_u32,
        exp_stat_sn=_u32,
        read=_flag,
        write=_flag,
        final=_flag,
        attribute=st.integers(0, 7),
        immediate=_flag,
        data=_data,
        read_length=st.none() | _u32,
    ),
    st.builds(
        TaskManagementRequest, _u32, st.integers(0, 127), _u64, _u32, _u32, _u32, _u32, immediate=_flag
    ),
    st.builds(DataOut, _u32, _u32, _u64, _u32, _u32, _data, _flag, _u32),
    st.builds(TextRequest, _u32, _u32, _u32, _data, _u32, _flag, _flag, _flag, _u64),
    st.builds(
        LoginRequest,
        task_tag=_u32,
        isid=_isid,
        tsih=_u16,
        stage=_stage,
        next_stage=_stage,
        transit=_flag,
        data=_data,
        cmd_sn=_u32,
        exp_stat_sn=_u32,
        connection_id=_u16,
        more=_flag,
        version_max=_u8,
        version_min=_u8,
        immediate=_flag,
    ),
    st.builds(LogoutRequest, _u32, st.integers(0, 127), _u32, _u32, _u16, _flag),
    st.builds(NopOut, _u32, _u32, _u32, _u32, _data, _u64, _flag),
)

_responses: st.SearchStrategy[Pdu] = st.one_of(
    st.builds(
        ScsiResponse,
        task_tag=_u32,
        status=_u8,
        stat_sn=_u32,
        exp_cmd_sn=_u32,
        max_cmd_sn=_u32,
        response=_u8,
        overflow=_flag,
        underflow=_flag,
        residual=_u32,
        read_overflow=_flag,
        read_underflow=_flag,
        read_residual=_u32,
        exp_data_sn=_u32,
        sense=_data,
    ),
    st.builds(TaskManagementResponsePdu, _u32, _u8, _u32, _u32, _u32),
    st.builds(
        DataIn,
        task_tag=_u32,
        data_sn=_u32,
        offset=_u32,
        data=_data,
        exp_cmd_sn=_u32,
        max_cmd_sn=_u32,
        final=_flag,
        has_status=_flag,
        status=_u8,
        stat_sn=_u32,
        overflow=_flag,
        underflow=_flag,
        residual=_u32,
    ),
    st.builds(ReadyToTransfer, _u32, _u32, _u64, _u32, _u32, _u32, _u32, _u32, _u32),
    st.builds(AsyncMessage, _u8, _u32, _u32, _u32, _u8, _u16, _u16, _u16, _u64, _data),
    st.builds(TextResponse, _u32, _u32, _data, _u32, _u32, _u32, _flag, _flag),
    st.builds(
        LoginResponse,
        task_tag=_u32,
        isid=_isid,
        tsih=_u16,
        stage=_stage,
        next_stage=_stage,
        transit=_flag,
        data=_data,
        status=_u16,
        stat_sn=_u32,
        exp_cmd_sn=_u32,
        max_cmd_sn=_u32,
        more=_flag,
        version_max=_u8,
        version_active=_u8,
    ),
    st.builds(LogoutResponsePdu, _u32, _u8, _u32, _u32, _u32, _u16, _u16),
    st.builds(Reject, _u8, _data, _u32, _u32, _u32, _u32),
    st.builds(NopIn, _u32, _u32, _u32, _u32, _u32, _data, _u64),
)

pdus: st.SearchStrategy[Pdu] = requests | _responses
"""Any PDU."""
