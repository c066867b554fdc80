from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.lun.commands import combined
from holdover.lun.commands.block import Geometry
from holdover.lun.commands.combined import CompareAndWriteBlocks, OrBlocks, WriteAndVerifyBlocks
from holdover.lun.commands.work import MediumWork
from holdover.scsi.cdbs.cdb import CompareAndWrite, OrWrite, WriteAndVerify
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from tests.lun.support import MemoryMedium, disk_full, illegal, sense_of

GEOMETRY = Geometry(blocks=64, maximum_transfer=16, maximum_compare_and_write=8)
OUT_OF_RANGE = illegal(AdditionalSense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
BAD_CDB = illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
TOO_LITTLE = illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)

Combined = CompareAndWrite | OrWrite | WriteAndVerify


def ask(cdb: Combined, data: bytes) -> Response | MediumWork:
    match cdb:
        case CompareAndWrite():
            return combined.compare_and_write(cdb, data, GEOMETRY)
        case OrWrite():
            return combined.or_write(cdb, data, GEOMETRY)
        case WriteAndVerify():
            return combined.write_and_verify(cdb, data, GEOMETRY)


def refusal(answer: Response | MediumWork) -> tuple[SenseKey, int]:
    assert isinstance(answer, Response)
    return sense_of(answer)


def test_ranges_become_bytes() -> None:
    old, new = b"o" * 512, b"n" * 512
    assert ask(CompareAndWrite(3, 1), old + new) == CompareAndWriteBlocks(1536, old, new)
    assert ask(CompareAndWrite(3, 1, fua=True), old + new) == CompareAndWriteBlocks(1536, old, new, fua=True)
    assert ask(OrWrite(3, 1, fua=True), new) == OrBlocks(1536, new, fua=True)
    assert ask(OrWrite(3, 1), new + b"more") == OrBlocks(1536, new)
    assert ask(WriteAndVerify(3, 1, 10), new) == WriteAndVerifyBlocks(1536, new)
    assert ask(WriteAndVerify(3, 1, 12, bytchk=1), new) == WriteAndVerifyBlocks(1536, new, compare=True)


def test_a_disabled_write_cache_writes_through() -> None:
    data = bytes(512)
    swap = combined.compare_and_write(CompareAndWrite(0, 1), data * 2, GEOMETRY, through=True)
    assert swap == CompareAndWriteBlocks(0, data, data, fua=True)
    assert combined.or_write(OrWrite(0, 1), data, GEOMETRY, through=True) == OrBlocks(0, data, fua=True)


@pytest.mark.parametrize("kind", [CompareAndWrite, OrWrite, WriteAndVerify])
class TestRefusals:
    @pytest.mark.parametrize(
        ("lba", "blocks"), [(64, 0), (64, 1), (63, 2), (0xFFFFFFFF, 1), ((1 << 64) - 1, 1)]
    )
    def test_out_of_range(self, kind: type[Combined], lba: int, blocks: int) -> None:
        assert refusal(ask(kind(lba, blocks), bytes(2048))) == OUT_OF_RANGE

    def test_more_than_the_most(self, kind: type[Combined]) -> None:
        most = 8 if kind is CompareAndWrite else 16
        assert refusal(ask(kind(0, most + 1), bytes(2 * 17 * 512))) == BAD_CDB
        length = 2 * most * 512 if kind is CompareAndWrite else most * 512
        assert not isinstance(ask(kind(0, most), bytes(length)), Response)

    def test_there_is_no_protection_information(self, kind: type[Combined]) -> None:
        assert refusal(ask(kind(0, 1, protect=1), bytes(1024))) == BAD_CDB

    def test_no_blocks_do_nothing(self, kind: type[Combined]) -> None:
        answer = ask(kind(63, 0), b"")
        assert isinstance(answer, Response)
        assert answer.good

    @pytest.mark.parametrize("length", [0, 1, 511])
    def test_too_little_data(self, kind: type[Combined], length: int) -> None:
        answer = ask(kind(0, 1), bytes(length))
        if kind is WriteAndVerify and length == 0:
            # not one block came: nothing is written, and the residual says so
            assert answer == WriteAndVerifyBlocks(0, b"", asked=512)
            return
        assert refusal(answer) == (BAD_CDB if kind is CompareAndWrite else TOO_LITTLE)


@pytest.mark.parametrize("length", [512, 1023, 1025, 2048])
def test_compare_and_write_takes_no_other_amount_of_data(length: int) -> None:
    assert refusal(ask(CompareAndWrite(0, 1), bytes(length))) == BAD_CDB
    assert refusal(ask(CompareAndWrite(0, 0), bytes(length))) == BAD_CDB


@pytest.mark.parametrize("bytchk", [2, 3])
def test_a_bytchk_that_there_is_not(bytchk: int) -> None:
    assert refusal(ask(WriteAndVerify(0, 1, bytchk=bytchk), bytes(512))) == BAD_CDB


class TestWork:
    def test_compare_and_write(self) -> None:
        medium = MemoryMedium()
        assert CompareAndWriteBlocks(512, bytes(512), b"n" * 512).run(medium).good
        assert medium.data[512:1024] == b"n" * 512
        assert medium.flushed == bytes(len(medium.data))
        assert CompareAndWriteBlocks(512, b"n" * 512, b"m" * 512, fua=True).run(medium).good
        assert medium.flushed[512:1024] == b"m" * 512

    @pytest.mark.parametrize("at", [0, 1, 511, 512, 1023])
    def test_a_byte_that_differs_is_named_and_nothing_is_written(self, at: int) -> None:
        medium = MemoryMedium()
        expected = bytearray(1024)
        expected[at] = 1
        response = CompareAndWriteBlocks(512, bytes(expected), b"n" * 1024).run(medium)
        sense = decode_sense(response.sense)
        assert sense.key is SenseKey.MISCOMPARE
        assert sense.information == at
        assert medium.data == bytes(len(medium.data))

    @given(st.binary(min_size=512, max_size=512), st.binary(min_size=512, max_size=512))
    def test_or(self, before: bytes, data: bytes) -> None:
        medium = MemoryMedium(1024)
        medium.write(512, before)
        assert OrBlocks(512, data).run(medium).good
        assert medium.data[512:] == bytes(a | b for a, b in zip(before, data, strict=True))
        assert medium.data[:512] == bytes(512)

    def test_write_and_verify_reaches_stable_storage(self) -> None:
        medium = MemoryMedium()
        for compare in (False, True):
            assert WriteAndVerifyBlocks(512, bytes([compare]) * 512, compare).run(medium).good
            assert medium.flushed[512:1024] == bytes([compare]) * 512

    def test_write_and_verify_finds_what_went_wrong(self) -> None:
        class Forgetful(MemoryMedium):
            def write(self, offset: int, data: bytes) -> None:
                super().write(offset, data[:-1] + b"?")

        assert WriteAndVerifyBlocks(0, bytes(512)).run(Forgetful()).good
        wrong = WriteAndVerifyBlocks(0, bytes(512), compare=True).run(Forgetful())
        assert sense_of(wrong)[0] is SenseKey.MISCOMPARE

    @pytest.mark.parametrize(
        "work",
        [
            CompareAndWriteBlocks(0, bytes(512), bytes(512)),
            OrBlocks(0, bytes(512)),
            WriteAndVerifyBlocks(0, bytes(512)),
        ],
    )
    def test_a_broken_medium(self, work: MediumWork) -> None:
        medium = MemoryMedium()
        medium.failure = OSError(errno.EIO, "Input/output error")
        assert sense_of(work.run(medium))[0] is SenseKey.MEDIUM_ERROR
        full = FullMedium()
        assert sense_of(work.run(full)) == (
            SenseKey.DATA_PROTECT,
            AdditionalSense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
        )

    def test_they_are_exclusive_on_their_blocks(self) -> None:
        for work in (
            CompareAndWriteBlocks(512, bytes(512), bytes(512)),
            OrBlocks(512, bytes(512)),
            WriteAndVerifyBlocks(512, bytes(512)),
        ):
            assert work.exclusive
            assert work.span == (512, 1024)

    def test_what_belongs_in_a_thread(self) -> None:
        assert not CompareAndWriteBlocks(0, bytes(512), bytes(512)).slow
        assert CompareAndWriteBlocks(0, bytes(512), bytes(512), fua=True).slow
        assert not OrBlocks(0, bytes(4096)).slow
        assert OrBlocks(0, bytes(512 * 1024)).slow
        assert WriteAndVerifyBlocks(0, bytes(512)).slow


class FullMedium(MemoryMedium):
    """Reads, but has no room for what is written."""

    def write(self, offset: int, data: bytes) -> None:
        raise disk_full()
