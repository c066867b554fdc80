"""Makes PDUs of a command's answer: Data-In in sequences, residuals, the status (RFC 7143 11.4, 11.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from holdover.iscsi.header import Buffer
from holdover.iscsi.negotiation import Parameters
from holdover.iscsi.responses import DataIn, ScsiResponse
from holdover.iscsi.target.protocol.numbers import TargetNumbers
from holdover.iscsi.target.protocol.task import TargetTask
from holdover.scsi.command import Response


def response_pdus(
    task: TargetTask, response: Response, parameters: Parameters, numbers: TargetNumbers
) -> Iterable[DataIn | ScsiResponse]:
    """The PDUs of an answer, in order.

    The last Data-In carries the status if this is allowed: for a command in one direction, without sense
    data.
    """
    length, room = len(response.data_in), task.read_length
    fits = length <= room and length <= parameters.max_send_data_segment_length
    whole = fits and 0 < length <= parameters.max_burst_length and response.data_in_length is None
    if not whole or response.sense or task.bidirectional:
        return _in_parts(task, response, parameters, numbers)
    # Most reads fit in one PDU, so this case has a fast way of its own.
    missing = room - length
    return (
        DataIn(
            task.tag,
            0,
            0,
            response.data_in,
            numbers.exp_cmd_sn,
            numbers.max_cmd_sn,
            True,
            True,
            response.status,
            numbers.next_stat_sn(),
            False,
            missing > 0,
            missing,
        ),
    )


def _in_parts(
    task: TargetTask, response: Response, parameters: Parameters, numbers: TargetNumbers
) -> Iterator[DataIn | ScsiResponse]:
    data, room = response.data_in, task.read_length
    end = min(len(data), room)
    alone = bool(response.sense) or task.bidirectional
    count = 0
    if end:
        for pdu in _data_in(task, response, end, parameters, numbers, not alone):
            count += 1
            yield pdu
        if not alone:
            return
    read_residual = residual = _length(response) - room
    if task.bidirectional:
        residual = _write_residual(task, response)
    else:
        read_residual = 0
        if not data and not room:
            residual = _write_residual(task, response)
    yield ScsiResponse(
        task.tag,
        response.status,
        numbers.next_stat_sn(),
        numbers.exp_cmd_sn,
        numbers.max_cmd_sn,
        overflow=residual > 0,
        underflow=residual < 0,
        residual=abs(residual),
        read_overflow=read_residual > 0,
        read_underflow=read_residual < 0,
        read_residual=abs(read_residual),
        exp_data_sn=count,
        sense=response.sense,
    )


def _length(response: Response) -> int:
    """The bytes of Data-In that the CDB asks for, with those that were cut off on the way here."""
    return len(response.data_in) if response.data_in_length is None else response.data_in_length


def _write_residual(task: TargetTask, response: Response) -> int:
    """The bytes of Data-Out that the CDB asks for beyond those of the initiator (11.4.5.1).

    Positive for an overflow, negative for an underflow.
    """
    asked = response.data_out_length
    return 0 if asked is None else asked - task.write_length


def _data_in(
    task: TargetTask,
    response: Response,
    end: int,
    parameters: Parameters,
    numbers: TargetNumbers,
    with_status: bool,
) -> Iterator[DataIn]:
    """Data-In PDUs for the first `end` bytes, in sequences of MaxBurstLength."""
    length, asked, room = len(response.data_in), _length(response), task.read_length
    segment, burst = parameters.max_send_data_segment_length, parameters.max_burst_length
    view: Buffer = response.data_in
    if end > segment or end > burst or end != length:
        view = memoryview(view)
    at = data_sn = 0
    while at < end:
        burst_end = min(end, at - at % burst + burst)
        stop = min(at + segment, burst_end)
        status = with_status and stop == end
        yield DataIn(
            task.tag,
            data_sn,
            at,
            view if stop - at == length else view[at:stop],
            numbers.exp_cmd_sn,
            numbers.max_cmd_sn,
            stop == burst_end,
            status,
            response.status if status else 0,
            numbers.next_stat_sn() if status else 0,
            status and asked > end,
            status and asked <= end < room,
            (asked - end or room - end) if status else 0,
        )
        at = stop
        data_sn += 1
