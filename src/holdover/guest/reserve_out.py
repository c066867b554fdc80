"""PERSISTENT RESERVE OUT of a guest: which are refused."""

from __future__ import annotations

from holdover.guest.snoop import AFTER, REGISTERS
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.command import Response
from holdover.scsi.reservation.reservation_out import BASIC_LENGTH, ParameterList
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

INVALID_FIELD_IN_CDB = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
_INVALID_FIELD_IN_PARAMETER_LIST = check_condition(
    SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST
)
_PARAMETER_LIST_LENGTH_ERROR = check_condition(
    SenseKey.ILLEGAL_REQUEST, AdditionalSense.PARAMETER_LIST_LENGTH_ERROR
)


def refusal_of(cdb: PersistentReserveOut, data: bytes) -> Response | None:
    """The response to a command that must not reach the logical unit; None for any other command.

    The check looks at the CDB first, then at whether the parameter list is complete, then at the flags of
    the list. So a list with TransportIDs is refused for SPEC_I_PT, not for the length that the TransportIDs
    give it.
    """
    if cdb.service_action == OutServiceAction.REGISTER_AND_MOVE:
        return INVALID_FIELD_IN_CDB
    if cdb.service_action not in AFTER:
        return None
    length = cdb.parameter_list_length
    if length < BASIC_LENGTH or len(data) < length:
        return _PARAMETER_LIST_LENGTH_ERROR
    parameters = ParameterList.decode_basic(data)
    if cdb.service_action in REGISTERS and (parameters.spec_i_pt or parameters.all_tg_pt):
        return _INVALID_FIELD_IN_PARAMETER_LIST
    return None if length == BASIC_LENGTH else _PARAMETER_LIST_LENGTH_ERROR
