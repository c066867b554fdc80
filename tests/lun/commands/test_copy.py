from __future__ import annotations

import errno
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.lun.commands.block import Geometry
from holdover.lun.commands.copy import CopyResults, CopyWork, extended_copy
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.scsi.cdbs.cdb import ExtendedCopy, ReceiveCopyResults
from holdover.scsi.cdbs.extended_copy import (
    CopyList,
    CopyStatus,
    CscdDescriptor,
    ListIdUsage,
    OtherDescriptor,
    SegmentDescriptor,
)
from holdover.scsi.cdbs.opcodes import CopyInServiceAction
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey
from tests.lun.support import A, B, MemoryMedium, illegal, sense_of

GEOMETRY = Geometry(blocks=64)
DESIGNATORS = UnitIdentity("0123456789abcdef").designators(1)
NAA = DESIGNATORS[0]
HERE = CscdDescriptor(NAA.code_set, NAA.association, NAA.type, NAA.value, 512)
SEGMENT = SegmentDescriptor(0, 0, 2, 3, 9)
COPY = CopyList((HERE,), (SEGMENT,), list_identifier=7)
BAD_LENGTH = illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
BAD_LIST = illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
NOT_REACHABLE = (SenseKey.COPY_ABORTED, AdditionalSense.COPY_TARGET_DEVICE_NOT_REACHABLE)


def ask(wanted: CopyList | bytes, *, through: bool = False) -> tuple[Response | CopyWork, int | None]:
    data = wanted if isinstance(wanted, bytes) else wanted.encode()
    return extended_copy(ExtendedCopy(len(data)), data, GEOMETRY, DESIGNATORS, through)


def refusal(wanted: CopyList | bytes) -> tuple[SenseKey, int]:
    answer, kept = ask(wanted)
    assert isinstance(answer, Response)
    assert kept is None
    return sense_of(answer)


def test_segments_become_bytes() -> None:
    work = CopyWork(((3 * 512, 9 * 512, 1024),))
    assert ask(COPY) == (work, 7)
    assert ask(replace(COPY, list_id_usage=ListIdUsage.DISCARDED)) == (work, 7)
    assert ask(replace(COPY, list_id_usage=ListIdUsage.NONE)) == (work, None)
    assert ask(COPY, through=True) == (CopyWork(((3 * 512, 9 * 512, 1024),), fua=True), 7)
    assert work.span == (3 * 512, 11 * 512)


@pytest.mark.parametrize(
    "wanted",
    [
        b"",
        CopyList((), ()),
        CopyList((HERE,), ()),
        CopyList((HERE,), (replace(SEGMENT, blocks=0),)),
    ],
)
def test_nothing_to_copy(wanted: CopyList | bytes) -> None:
    answer, kept = ask(wanted)
    assert isinstance(answer, Response)
    assert answer.good
    assert kept is None


def test_obsolete_bits_have_no_meaning() -> None:
    assert isinstance(ask(CopyList((replace(HERE, lu_id_type=3, null=True),), (SEGMENT,)))[0], CopyWork)


@pytest.mark.parametrize("cut", range(1, len(COPY.encode())))
def test_a_list_that_is_cut(cut: int) -> None:
    data = COPY.encode()
    assert refusal(data[:cut]) == BAD_LENGTH
    answer, _ = extended_copy(ExtendedCopy(len(data)), data[:cut], GEOMETRY, DESIGNATORS)
    assert isinstance(answer, Response)
    assert sense_of(answer) == BAD_LENGTH


@pytest.mark.parametrize(
    ("wanted", "additional"),
    [
        (CopyList((HERE,) * 17, (SEGMENT,)), AdditionalSense.TOO_MANY_TARGET_DESCRIPTORS),
        (CopyList((HERE,), (SEGMENT,) * 17), AdditionalSense.TOO_MANY_SEGMENT_DESCRIPTORS),
        (CopyList((HERE,) * 17, (SEGMENT,) * 17), AdditionalSense.PARAMETER_LIST_LENGTH_ERROR),
        (
            CopyList((OtherDescriptor(b"\xe0" + bytes(31)),), (SEGMENT,)),
            AdditionalSense.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE,
        ),
        (
            CopyList((HERE,), (OtherDescriptor(b"\x03" + bytes(7)),)),
            AdditionalSense.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE,
        ),
        (replace(COPY, inline=b"x"), AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST),
        (replace(COPY, list_id_usage=1), AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST),
    ],
)
def test_a_list_that_is_refused(wanted: CopyList, additional: AdditionalSense) -> None:
    assert refusal(wanted) == illegal(additional)


@pytest.mark.parametrize(
    "wanted",
    [
        CopyList((HERE,), (replace(SEGMENT, destination=1),)),
        CopyList((), (SEGMENT,)),
        CopyList((replace(HERE, designator=bytes(8)),), (SEGMENT,)),
        CopyList((replace(HERE, association=1),), (SEGMENT,)),
        CopyList((replace(HERE, device_type=1),), (SEGMENT,)),
        CopyList((replace(HERE, block_length=4096),), (SEGMENT,)),
    ],
)
def test_who_cannot_be_reached(wanted: CopyList) -> None:
    assert refusal(wanted) == NOT_REACHABLE


@pytest.mark.parametrize(
    "segment", [replace(SEGMENT, source_lba=63), replace(SEGMENT, destination_lba=(1 << 64) - 1)]
)
def test_blocks_that_are_not_there(segment: SegmentDescriptor) -> None:
    assert refusal(CopyList((HERE,), (SEGMENT, segment)))[0] is SenseKey.COPY_ABORTED


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 20))
def test_what_is_copied_is_what_was_there(source: int, destination: int, blocks: int) -> None:
    medium = MemoryMedium()
    medium.write(0, b"".join(bytes([each]) * 512 for each in range(64)))
    before = bytes(medium.data)
    work = CopyWork(((source * 512, destination * 512, blocks * 512),), fua=True)
    assert work.run(medium).good
    expected = bytearray(before)
    expected[destination * 512 : (destination + blocks) * 512] = before[source * 512 :][: blocks * 512]
    assert medium.flushed == expected
    assert work.status == CopyStatus(1, 1, blocks * 512)


@pytest.mark.parametrize(("source", "destination"), [(0, 1 << 19), (1 << 19, 0)])
def test_ranges_that_overlap_in_many_pieces(source: int, destination: int) -> None:
    medium = MemoryMedium(4 << 20)
    medium.write(0, b"".join(each.to_bytes(4, "big") for each in range(1 << 20)))
    before = bytes(medium.data)
    assert CopyWork(((source, destination, 3 << 20),)).run(medium).good
    assert medium.data[destination : destination + (3 << 20)] == before[source : source + (3 << 20)]


def test_a_medium_that_fails() -> None:
    medium = MemoryMedium()
    medium.failure = OSError(errno.EIO, "Input/output error")
    work = CopyWork(((0, 512, 512),))
    assert sense_of(work.run(medium))[0] is SenseKey.MEDIUM_ERROR
    assert work.status == CopyStatus(2, 0, 0)


class TestResults:
    def test_each_nexus_has_its_own(self) -> None:
        results = CopyResults()
        work = CopyWork(((0, 512, 512),))
        results.keep(A, 7, work)
        status = ReceiveCopyResults(CopyInServiceAction.COPY_STATUS_LID1, 7, 255)
        assert results.receive(A, status) == CopyStatus(0, 0, 0).encode()
        work.run(MemoryMedium())
        assert results.receive(A, status) == CopyStatus(1, 1, 512).encode()
        assert results.receive(B, status) is AdditionalSense.INVALID_FIELD_IN_CDB
        results.clear()
        assert results.receive(A, status) is AdditionalSense.INVALID_FIELD_IN_CDB

    def test_a_lost_nexus_leaves_none(self) -> None:
        results = CopyResults()
        for nexus in (A, B):
            results.keep(nexus, 7, CopyWork(((0, 512, 512),)))
        results.lose(A)
        status = ReceiveCopyResults(CopyInServiceAction.COPY_STATUS_LID1, 7, 255)
        assert results.receive(A, status) is AdditionalSense.INVALID_FIELD_IN_CDB
        assert results.receive(B, status) == CopyStatus(0, 0, 0).encode()

    def test_the_oldest_is_forgotten(self) -> None:
        results = CopyResults()
        for identifier in range(65):
            results.keep(A, identifier, CopyWork(((0, 512, 512),)))
        for identifier, known in ((0, False), (1, True), (64, True)):
            status = ReceiveCopyResults(CopyInServiceAction.COPY_STATUS_LID1, identifier, 255)
            assert isinstance(results.receive(A, status), bytes) is known

    def test_operating_parameters(self) -> None:
        cdb = ReceiveCopyResults(CopyInServiceAction.OPERATING_PARAMETERS, 0, 255)
        data = CopyResults().receive(A, cdb)
        assert isinstance(data, bytes)
        assert (data[8:12], data[-2:]) == (bytes([0, 16, 0, 16]), b"\x02\xe4")

    @pytest.mark.parametrize("action", [1, 4, 5, 31])
    def test_a_service_action_that_there_is_not(self, action: int) -> None:
        cdb = ReceiveCopyResults(action, 0, 255)
        assert CopyResults().receive(A, cdb) is AdditionalSense.INVALID_FIELD_IN_CDB


@given(st.binary(max_size=120))
def test_any_list(data: bytes) -> None:
    ask(data)
