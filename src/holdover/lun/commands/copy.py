"""EXTENDED COPY(LID1) and RECEIVE COPY RESULTS within one logical unit (SPC-4 5.16.7, 6.4, 6.20, 6.21).

A copy is done before the status of its command. The source and the destination of a copy must be this logical
unit, named by one of its own designators. Any other is a copy target device that cannot be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from holdover.lun.commands.answers import GOOD, illegal, read_failure, write_failure
from holdover.lun.commands.block import Geometry
from holdover.lun.commands.work import Span
from holdover.lun.medium import Medium
from holdover.scsi.cdbs.cdb import ExtendedCopy, ReceiveCopyResults
from holdover.scsi.cdbs.extended_copy import (
    CopyList,
    CopyStatus,
    CscdDescriptor,
    DescriptorType,
    ListIdUsage,
    OperatingParameters,
    OtherDescriptor,
    SegmentDescriptor,
)
from holdover.scsi.cdbs.opcodes import CopyInServiceAction, CopyOutServiceAction, OperationCode
from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.inquiry import Designator, ThirdPartyCopy
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

_MOST_CSCDS = _MOST_SEGMENTS = 16
_CSCD_LENGTH, _SEGMENT_LENGTH = 32, 28
_MOST_BYTES = _MOST_CSCDS * _CSCD_LENGTH + _MOST_SEGMENTS * _SEGMENT_LENGTH
_HEADER = 16
_MOST_SEGMENT_BYTES = 0xFFFF * 512
_GRANULARITY = 9
_KEPT = 64
_CHUNK = 1 << 20

THIRD_PARTY_COPY = ThirdPartyCopy(
    commands=(
        (OperationCode.EXTENDED_COPY, (CopyOutServiceAction.EXTENDED_COPY_LID1,)),
        (
            OperationCode.RECEIVE_COPY_RESULTS,
            (CopyInServiceAction.COPY_STATUS_LID1, CopyInServiceAction.OPERATING_PARAMETERS),
        ),
    ),
    cscds=_MOST_CSCDS,
    segments=_MOST_SEGMENTS,
    list_length=_MOST_BYTES,
    types=tuple(DescriptorType),
    concurrent=_KEPT,
    segment_length=_MOST_SEGMENT_BYTES,
    granularity=_GRANULARITY,
)
"""The page of vital product data that reports these limits."""

_IN_PROGRESS, _DONE, _FAILED = range(3)


@dataclass(slots=True)
class CopyWork:
    """Copy segments, one after the other.

    Attributes:
        segments: The source, the destination and the length of each segment, in bytes.
        fua: Whether to copy to stable storage.
        status: The data of COPY STATUS for this copy.
    """

    segments: tuple[tuple[int, int, int], ...]
    fua: bool = False
    status: CopyStatus = field(default=CopyStatus(_IN_PROGRESS, 0, 0), compare=False)
    exclusive: ClassVar[bool] = False

    @property
    def span(self) -> Span:
        """From the first byte that is read or written to the last."""
        starts = [at for source, destination, _ in self.segments for at in (source, destination)]
        ends = [max(source, destination) + length for source, destination, length in self.segments]
        return min(starts), max(ends)

    @property
    def slow(self) -> bool:
        """True: the work belongs in a thread."""
        return True

    def run(self, medium: Medium) -> Response:
        """GOOD, or the reason why the work failed."""
        for number, segment in enumerate(self.segments):
            failure = _copy(medium, *segment)
            if failure is not None:
                self.status = CopyStatus(_FAILED, number, 0)
                return failure
        if self.fua:
            try:
                medium.flush()
            except OSError as error:
                self.status = CopyStatus(_FAILED, len(self.segments), 0)
                return write_failure(error)
        self.status = CopyStatus(_DONE, len(self.segments), self.segments[-1][2])
        return GOOD


def _copy(medium: Medium, source: int, destination: int, length: int) -> Response | None:
    # Copy from the end at which no byte is overwritten before it is read.
    steps = range(0, length, _CHUNK)
    for at in steps if destination <= source else reversed(steps):
        try:
            data = medium.read(source + at, min(_CHUNK, length - at))
        except OSError:
            return read_failure()
        try:
            medium.write(destination + at, data)
        except OSError as error:
            return write_failure(error)
    return None


class CopyResults:
    """The copies that RECEIVE COPY RESULTS can ask for, by I_T nexus and list identifier.

    When there are too many copies, the oldest is forgotten.
    """

    def __init__(self) -> None:
        self._copies: dict[tuple[ITNexus, int], CopyWork] = {}

    def keep(self, nexus: ITNexus, list_identifier: int, work: CopyWork) -> None:
        """Remember a copy. It replaces an earlier copy with the same list identifier."""
        self._copies.pop((nexus, list_identifier), None)
        if len(self._copies) >= _KEPT:
            del self._copies[next(iter(self._copies))]
        self._copies[nexus, list_identifier] = work

    def clear(self) -> None:
        """Forget all copies, because of a reset."""
        self._copies.clear()

    def lose(self, nexus: ITNexus) -> None:
        """Forget the copies of a lost I_T nexus: the next initiator of this name did not ask for them."""
        for key in [each for each in self._copies if each[0] == nexus]:
            del self._copies[key]

    def receive(self, nexus: ITNexus, cdb: ReceiveCopyResults) -> bytes | AdditionalSense:
        """The whole parameter data, or the additional sense code of an ILLEGAL REQUEST."""
        match cdb.service_action:
            case CopyInServiceAction.OPERATING_PARAMETERS:
                return OperatingParameters(
                    cscds=_MOST_CSCDS,
                    segments=_MOST_SEGMENTS,
                    list_length=_MOST_BYTES,
                    segment_length=_MOST_SEGMENT_BYTES,
                    concurrent=_KEPT,
                    types=tuple(DescriptorType),
                ).encode()
            case CopyInServiceAction.COPY_STATUS_LID1:
                work = self._copies.get((nexus, cdb.list_identifier))
                if work is not None:
                    return work.status.encode()
        return AdditionalSense.INVALID_FIELD_IN_CDB


def extended_copy(
    cdb: ExtendedCopy,
    data_out: bytes,
    geometry: Geometry,
    designators: Sequence[Designator],
    through: bool = False,
) -> tuple[Response | CopyWork, int | None]:
    """A refusal or the work, and the list identifier under which to keep the work, or None.

    Args:
        cdb: The CDB.
        data_out: The parameter list.
        geometry: The shape of the medium.
        designators: The designators of this logical unit.
        through: Whether to copy to stable storage.
    """
    if not cdb.parameter_list_length:
        return GOOD, None
    if len(data_out) < cdb.parameter_list_length or cdb.parameter_list_length > _HEADER + _MOST_BYTES:
        return illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR), None
    try:
        wanted = CopyList.decode(data_out[: cdb.parameter_list_length])
    except DecodeError as error:
        if error.offset is None:
            return illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR), None
        return illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST), None
    refusal = _refuse_list(wanted)
    if refusal is not None:
        return refusal, None
    work = _plan(wanted, geometry, designators, through)
    keep = isinstance(work, CopyWork) and wanted.list_id_usage != ListIdUsage.NONE
    return work, wanted.list_identifier if keep else None


def _refuse_list(wanted: CopyList) -> Response | None:
    """A refusal if the list is wrong, before anything is copied; None if the list is right."""
    cscds, segments = _count(wanted.cscds, _CSCD_LENGTH), _count(wanted.segments, _SEGMENT_LENGTH)
    if cscds > _MOST_CSCDS:
        return illegal(AdditionalSense.TOO_MANY_TARGET_DESCRIPTORS)
    if segments > _MOST_SEGMENTS:
        return illegal(AdditionalSense.TOO_MANY_SEGMENT_DESCRIPTORS)
    if any(isinstance(each, OtherDescriptor) for each in wanted.cscds):
        return illegal(AdditionalSense.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE)
    if any(isinstance(each, OtherDescriptor) for each in wanted.segments):
        return illegal(AdditionalSense.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE)
    if wanted.inline or wanted.list_id_usage not in list(ListIdUsage):
        return illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    return None


def _count(descriptors: Sequence[CscdDescriptor | SegmentDescriptor | OtherDescriptor], length: int) -> int:
    rest = sum(len(each.raw) for each in descriptors if isinstance(each, OtherDescriptor))
    known = sum(not isinstance(each, OtherDescriptor) for each in descriptors)
    return known + -(-rest // length)


def _plan(
    wanted: CopyList, geometry: Geometry, designators: Sequence[Designator], through: bool
) -> Response | CopyWork:
    here = [_is_here(each, designators, geometry) for each in wanted.cscds]
    planned: list[tuple[int, int, int]] = []
    for each in wanted.segments:
        if not isinstance(each, SegmentDescriptor):
            continue
        for index in (each.source, each.destination):
            if index >= len(here) or not here[index]:
                return _aborted(AdditionalSense.COPY_TARGET_DEVICE_NOT_REACHABLE)
        for lba in (each.source_lba, each.destination_lba):
            if lba + each.blocks > geometry.blocks:
                return _aborted(AdditionalSense.NO_ADDITIONAL_SENSE)
        length = geometry.block_length
        if each.blocks:
            planned.append((each.source_lba * length, each.destination_lba * length, each.blocks * length))
    return CopyWork(tuple(planned), through) if planned else GOOD


def _is_here(
    cscd: CscdDescriptor | OtherDescriptor, designators: Sequence[Designator], geometry: Geometry
) -> bool:
    # LU ID TYPE and NUL have no meaning since SPC-4.
    if isinstance(cscd, OtherDescriptor) or cscd.device_type:
        return False
    if cscd.block_length not in (0, geometry.block_length):
        return False
    return any(
        (each.type, each.association, each.code_set, each.value)
        == (cscd.designator_type, cscd.association, cscd.code_set, cscd.designator)
        for each in designators
    )


def _aborted(additional: AdditionalSense) -> Response:
    return check_condition(SenseKey.COPY_ABORTED, additional)
