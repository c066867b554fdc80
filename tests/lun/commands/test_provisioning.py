from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.lun.commands import provisioning
from holdover.lun.commands.block import Geometry
from holdover.lun.commands.provisioning import FindLbaStatus, UnmapRanges, WriteSameBlocks
from holdover.lun.commands.work import MediumWork
from holdover.scsi.block import LbaStatus, LbaStatusDescriptor, Provisioning, UnmapList
from holdover.scsi.cdbs.cdb import GetLbaStatus, Unmap, WriteSame
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey
from tests.lun.support import MemoryMedium, illegal, sense_of

GEOMETRY = Geometry(blocks=64, maximum_write_same=32, maximum_unmap=48)
OUT_OF_RANGE = illegal(AdditionalSense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
BAD_CDB = illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
BAD_LIST = illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
BAD_LENGTH = illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)


def unmap(*ranges: tuple[int, int]) -> Response | MediumWork:
    data = UnmapList(ranges).encode()
    return provisioning.unmap(Unmap(len(data)), data, GEOMETRY)


def write_same(cdb: WriteSame, data: bytes = b"") -> Response | MediumWork:
    return provisioning.write_same(cdb, data, GEOMETRY)


def refusal(answer: Response | MediumWork) -> tuple[SenseKey, int]:
    assert isinstance(answer, Response)
    return sense_of(answer)


def good(answer: Response | MediumWork) -> bool:
    return isinstance(answer, Response) and answer.good


class TestUnmap:
    def test_ranges_become_bytes(self) -> None:
        assert unmap((3, 2), (9, 0), (60, 4)) == UnmapRanges(((1536, 1024), (60 * 512, 2048)))
        data = UnmapList(((3, 2),)).encode()
        through = provisioning.unmap(Unmap(len(data)), data, GEOMETRY, through=True)
        assert through == UnmapRanges(((1536, 1024),), fua=True)

    def test_nothing_to_do(self) -> None:
        assert good(unmap())
        assert good(unmap((3, 0)))
        assert good(unmap((64, 0)))
        assert good(provisioning.unmap(Unmap(0), b"", GEOMETRY))

    @pytest.mark.parametrize(("lba", "blocks"), [(64, 1), (65, 0), (63, 2), ((1 << 64) - 1, 1)])
    def test_one_range_that_is_not_there_spoils_all(self, lba: int, blocks: int) -> None:
        assert refusal(unmap((0, 1), (lba, blocks))) == OUT_OF_RANGE

    def test_more_than_the_most(self) -> None:
        assert refusal(unmap((0, 32), (32, 17))) == BAD_LIST
        assert not isinstance(unmap((0, 32), (32, 16)), Response)

    def test_lists_that_are_refused(self) -> None:
        data = UnmapList(((0, 1),)).encode()
        assert refusal(provisioning.unmap(Unmap(25), data, GEOMETRY)) == BAD_LENGTH
        assert refusal(provisioning.unmap(Unmap(7), data, GEOMETRY)) == BAD_LENGTH
        assert refusal(provisioning.unmap(Unmap(24, anchor=True), data, GEOMETRY)) == BAD_CDB
        assert good(provisioning.unmap(Unmap(23), data, GEOMETRY))  # the descriptor is cut off

    def test_run(self) -> None:
        medium = MemoryMedium()
        medium.write(0, b"x" * len(medium.data))
        medium.flush()
        assert UnmapRanges(((512, 512), (2048, 1024))).run(medium).good
        expected = b"x" * 512 + bytes(512) + b"x" * 1024 + bytes(1024)
        assert medium.data[:3072] == expected
        assert medium.unmapped == [(512, 512), (2048, 1024)]
        assert medium.flushed[:3072] == b"x" * 3072
        assert UnmapRanges(((512, 512),), fua=True).run(medium).good
        assert medium.flushed[:3072] == expected

    def test_span(self) -> None:
        assert UnmapRanges(((2048, 1024), (512, 512))).span == (512, 3072)


class TestWriteSame:
    def test_a_block_all_over(self) -> None:
        assert write_same(WriteSame(3, 2), b"s" * 512) == WriteSameBlocks(1536, 1024, b"s" * 512)
        assert write_same(WriteSame(3, 2), b"s" * 600) == WriteSameBlocks(1536, 1024, b"s" * 512)
        through = provisioning.write_same(WriteSame(3, 2), b"s" * 512, GEOMETRY, through=True)
        assert through == WriteSameBlocks(1536, 1024, b"s" * 512, fua=True)

    def test_unmap_where_it_reads_the_same(self) -> None:
        zeros = UnmapRanges(((1536, 1024),))
        assert write_same(WriteSame(3, 2, unmap=True), bytes(512)) == zeros
        assert write_same(WriteSame(3, 2, unmap=True, no_data_out=True)) == zeros
        assert write_same(WriteSame(3, 2), bytes(512)) == WriteSameBlocks(1536, 1024, bytes(512))
        assert write_same(WriteSame(3, 2, no_data_out=True)) == WriteSameBlocks(1536, 1024, bytes(512))
        other = bytes(511) + b"s"
        assert write_same(WriteSame(3, 2, unmap=True), other) == WriteSameBlocks(1536, 1024, other)

    @pytest.mark.parametrize(
        "cdb",
        [
            WriteSame(0, 0),
            WriteSame(0, 33),
            WriteSame(0, 1, protect=1),
            WriteSame(0, 1, anchor=True),
            WriteSame(64, 1, anchor=True, unmap=True),
        ],
    )
    def test_a_cdb_that_is_refused(self, cdb: WriteSame) -> None:
        assert refusal(write_same(cdb, bytes(512))) == BAD_CDB

    @pytest.mark.parametrize(("lba", "blocks"), [(64, 0), (64, 1), (63, 2), (64, 99), ((1 << 64) - 1, 1)])
    def test_out_of_range(self, lba: int, blocks: int) -> None:
        assert refusal(write_same(WriteSame(lba, blocks), bytes(512))) == OUT_OF_RANGE

    def test_less_than_a_block(self) -> None:
        expected = illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
        assert refusal(write_same(WriteSame(0, 1), bytes(511))) == expected

    @given(st.integers(1, 3 << 11), st.integers(0, 3))
    def test_run(self, blocks: int, first: int) -> None:
        medium = MemoryMedium((blocks + 8) * 512)
        block = bytes(range(256)) * 2
        assert WriteSameBlocks(first * 512, blocks * 512, block, fua=True).run(medium).good
        assert medium.flushed == bytes(first * 512) + block * blocks + bytes((8 - first) * 512)


class TestLbaStatus:
    def find(self, medium: MemoryMedium, lba: int, allocation_length: int = 1024) -> LbaStatus:
        answer = provisioning.get_lba_status(GetLbaStatus(lba, allocation_length), GEOMETRY)
        assert isinstance(answer, FindLbaStatus)
        response = answer.run(medium)
        assert response.good
        assert len(response.data_in) <= allocation_length
        return LbaStatus.decode(response.data_in)

    def test_what_is_mapped_and_what_is_not(self) -> None:
        medium = MemoryMedium()
        medium.write(8192, b"x" * 4096)
        mapped, free = Provisioning.MAPPED, Provisioning.DEALLOCATED
        after = (LbaStatusDescriptor(16, 8, mapped), LbaStatusDescriptor(24, 40, free))
        assert self.find(medium, 0).descriptors == (LbaStatusDescriptor(0, 16, free), *after)
        assert self.find(medium, 3).descriptors == (LbaStatusDescriptor(3, 13, free), *after)
        assert self.find(medium, 17).descriptors[0] == LbaStatusDescriptor(17, 7, mapped)
        assert self.find(medium, 63).descriptors == (LbaStatusDescriptor(63, 1, free),)
        assert self.find(medium, 0, 24).descriptors == (LbaStatusDescriptor(0, 16, free),)

    def test_a_block_that_is_mapped_in_part_is_mapped(self) -> None:
        class Odd(MemoryMedium):
            def extent(self, offset: int) -> tuple[bool, int]:
                return (False, 700) if offset < 700 else (True, len(self.data))

        mapped, free = Provisioning.MAPPED, Provisioning.DEALLOCATED
        assert self.find(Odd(), 0).descriptors == (
            LbaStatusDescriptor(0, 1, free),
            LbaStatusDescriptor(1, 1, mapped),
            LbaStatusDescriptor(2, 62, mapped),
        )

    def test_out_of_range(self) -> None:
        assert refusal(provisioning.get_lba_status(GetLbaStatus(64, 24), GEOMETRY)) == OUT_OF_RANGE

    @pytest.mark.parametrize("length", [0, 7, 8, 23])
    def test_a_short_buffer(self, length: int) -> None:
        answer = provisioning.get_lba_status(GetLbaStatus(0, length), GEOMETRY)
        assert isinstance(answer, FindLbaStatus)
        whole = FindLbaStatus(0, GEOMETRY, 1, 24).run(MemoryMedium()).data_in
        assert answer.run(MemoryMedium()).data_in == whole[:length]


@pytest.mark.parametrize(
    ("work", "sense"),
    [
        (UnmapRanges(((0, 512),)), AdditionalSense.WRITE_ERROR),
        (WriteSameBlocks(0, 512, bytes(512)), AdditionalSense.WRITE_ERROR),
        (FindLbaStatus(0, GEOMETRY, 1, 24), AdditionalSense.UNRECOVERED_READ_ERROR),
    ],
)
def test_a_broken_medium(work: MediumWork, sense: AdditionalSense) -> None:
    medium = MemoryMedium()
    medium.failure = OSError(errno.EIO, "Input/output error")
    assert sense_of(work.run(medium)) == (SenseKey.MEDIUM_ERROR, sense)
