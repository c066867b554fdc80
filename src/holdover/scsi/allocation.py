"""Reads whole parameter data: with a short allocation length first, then with a longer one if necessary.

Some logical units and hypervisors refuse a long allocation length, whatever the length of the data: QEMU's
persistent reservation manager answers ILLEGAL REQUEST, INVALID FIELD IN CDB (5/24/00) to more than 8192
bytes. And for a device of SPC-2, the allocation length of INQUIRY has one byte, so that such a device reads
8192 as 0. So every command of Holdover's own begins with a length that all of them accept. Only when the data
say that they are longer, Holdover sends the command again, with a longer allocation length.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

from msgspec.structs import replace

from holdover.scsi.cdbs.cdb import Inquiry, PersistentReserveIn, decode_cdb
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError

Q = TypeVar("Q")

_FIRST_INQUIRY_LENGTH = 255
_MOST = 0xFFFF  # the allocation length has 16 bits in both CDBs


def page_command(page_code: int) -> Command:
    """An INQUIRY command for a page of vital product data, with the first, short allocation length."""
    cdb = Inquiry(_FIRST_INQUIRY_LENGTH, page_code)
    return Command(cdb.encode(), data_in_length=_FIRST_INQUIRY_LENGTH)


def with_more_room(command: Command, response: Response) -> Command | None:
    """The same command with the allocation length that its data need, to send again.

    None when the response is whole, has no data, or needs more than an allocation length can express.
    """
    if not response.good:
        return None
    try:
        cdb = decode_cdb(command.cdb)
    except DecodeError:
        return None
    if not isinstance(cdb, PersistentReserveIn | Inquiry):
        return None
    needed = min(_length_of(cdb, response.data_in), _MOST)
    if needed <= cdb.allocation_length:
        return None
    return Command(replace(cdb, allocation_length=needed).encode(), data_in_length=needed)


def ask_whole(
    command: Command, send: Callable[[Command], Generator[Q, Response, Response]]
) -> Generator[Q, Response, Response]:
    """Send ``command`` by ``send``, again with more room when the data were cut; the last response."""
    response = yield from send(command)
    while (longer := with_more_room(command, response)) is not None:
        command = longer
        response = yield from send(command)
    return response


def _length_of(cdb: PersistentReserveIn | Inquiry, data: bytes) -> int:
    """The length that the data say they have; 0 when they do not say it."""
    if isinstance(cdb, PersistentReserveIn):
        # The data of REPORT CAPABILITIES always have eight bytes.
        says = cdb.service_action != InServiceAction.REPORT_CAPABILITIES and len(data) >= 8
        return 8 + int.from_bytes(data[4:8], "big") if says else 0
    says = cdb.page_code is not None and len(data) >= 4
    return 4 + int.from_bytes(data[2:4], "big") if says else 0
