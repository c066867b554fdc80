from __future__ import annotations

import errno

import pytest

from holdover.lun.commands import block
from holdover.lun.commands.block import Flush, Geometry, Prefetch, ReadBlocks, VerifyBlocks, WriteBlocks
from holdover.lun.commands.work import MediumWork
from holdover.scsi.cdbs.cdb import PreFetch, Read, SynchronizeCache, Verify, Write
from holdover.scsi.command import Response
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.lun.support import MemoryMedium, disk_full, illegal, sense_of

GEOMETRY = Geometry(blocks=64, maximum_transfer=16)
OUT_OF_RANGE = illegal(AdditionalSense.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
BAD_CDB = illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
TOO_LITTLE = illegal(AdditionalSense.INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)


def ask(cdb: Read | Write | Verify | SynchronizeCache | PreFetch, data: bytes = b"") -> Response | MediumWork:
    match cdb:
        case PreFetch():
            return block.pre_fetch(cdb, GEOMETRY)
        case Read():
            return block.read(cdb, GEOMETRY)
        case Write():
            return block.write(cdb, data, GEOMETRY)
        case Verify():
            return block.verify(cdb, data, GEOMETRY)
    return block.synchronize_cache(cdb, GEOMETRY)


def refusal(answer: Response | MediumWork) -> tuple[SenseKey, int]:
    assert isinstance(answer, Response)
    return sense_of(answer)


def test_ranges_become_bytes() -> None:
    data = b"d" * 1024
    assert ask(Read(3, 2, 10)) == ReadBlocks(1536, 1024)
    assert ask(Read(3, 2, 16, fua=True)) == ReadBlocks(1536, 1024, fua=True)
    assert ask(Write(3, 2, 10), data) == WriteBlocks(1536, data)
    assert ask(Write(3, 2, 10, fua=True), data) == WriteBlocks(1536, data, fua=True)
    assert ask(Verify(3, 2, 10)) == VerifyBlocks(1536, 1024)
    assert ask(Verify(3, 2, 10, bytchk=1), data) == VerifyBlocks(1536, 1024, data)
    assert ask(SynchronizeCache(0, 0)) == Flush()
    assert ask(SynchronizeCache(60, 4, immed=True)) == Flush()


@pytest.mark.parametrize("kind", [Read, Write, Verify, SynchronizeCache])
@pytest.mark.parametrize(("lba", "blocks"), [(64, 0), (64, 1), (63, 2), (0xFFFFFFFF, 1), ((1 << 64) - 1, 1)])
def test_out_of_range(kind: type[Read | Write | Verify | SynchronizeCache], lba: int, blocks: int) -> None:
    assert refusal(ask(kind(lba, blocks, 16), b"d" * 1024)) == OUT_OF_RANGE


@pytest.mark.parametrize("kind", [Read, Write, Verify])
def test_no_blocks_do_nothing(kind: type[Read | Write | Verify]) -> None:
    answer = ask(kind(63, 0, 16))
    assert isinstance(answer, Response)
    assert answer.good


@pytest.mark.parametrize("kind", [Read, Write, Verify])
def test_more_than_the_maximum_transfer(kind: type[Read | Write | Verify]) -> None:
    assert refusal(ask(kind(0, 17, 16), bytes(17 * 512))) == BAD_CDB
    assert not isinstance(ask(kind(0, 16, 16), bytes(16 * 512)), Response)


@pytest.mark.parametrize("kind", [Read, Write, Verify])
def test_there_is_no_protection_information(kind: type[Read | Write | Verify]) -> None:
    assert refusal(ask(kind(0, 1, 16, protect=1), bytes(512))) == BAD_CDB


@pytest.mark.parametrize("length", [0, 1, 512, 1023])
def test_less_data_than_the_cdb_names(length: int) -> None:
    assert refusal(ask(Verify(0, 2, 10, bytchk=1), bytes(length))) == TOO_LITTLE
    answer = ask(Write(0, 2, 10), b"a" * length)
    if length % 512:
        assert refusal(answer) == TOO_LITTLE
        assert isinstance(answer, Response)
        assert answer.data_out_length == 1024
        return
    assert isinstance(answer, WriteBlocks)
    assert answer == WriteBlocks(0, b"a" * length, asked=1024)
    medium = MemoryMedium()
    done = answer.run(medium)
    assert (done.status, done.data_out_length) == (Status.GOOD, 1024)
    assert medium.data == (b"a" * length).ljust(len(medium.data), b"\0")


def test_more_data_than_the_cdb_names() -> None:
    assert ask(Write(0, 1, 10), b"a" * 512 + b"b" * 100) == WriteBlocks(0, b"a" * 512, asked=512)
    assert ask(Verify(0, 1, 10, bytchk=1), b"a" * 513) == VerifyBlocks(0, 512, b"a" * 512)


def test_a_bytchk_that_there_is_not() -> None:
    assert refusal(ask(Verify(0, 1, 10, bytchk=2), bytes(512))) == BAD_CDB


def test_every_block_is_compared_with_one() -> None:
    assert ask(Verify(3, 2, 10, bytchk=3), b"d" * 1024) == VerifyBlocks(1536, 1024, b"d" * 512)
    assert refusal(ask(Verify(3, 2, 10, bytchk=3), b"d" * 511)) == TOO_LITTLE
    medium = MemoryMedium()
    WriteBlocks(1536, b"d" * 1024).run(medium)
    assert VerifyBlocks(1536, 1024, b"d" * 512).run(medium).good
    wrong = VerifyBlocks(1536, 1536, b"d" * 512).run(medium)
    assert sense_of(wrong)[0] is SenseKey.MISCOMPARE
    assert decode_sense(wrong.sense).information == 1024


def test_a_disabled_write_cache_writes_through() -> None:
    assert block.write(Write(3, 1, 10), bytes(512), GEOMETRY, through=True) == WriteBlocks(
        1536, bytes(512), fua=True
    )


def test_pre_fetch() -> None:
    assert ask(PreFetch(3, 2)) == Prefetch(1536, 1024)
    assert ask(PreFetch(60, 0)) == Prefetch(60 * 512, 4 * 512)
    assert refusal(ask(PreFetch(64, 0))) == OUT_OF_RANGE
    assert refusal(ask(PreFetch(63, 2, 16))) == OUT_OF_RANGE
    medium = MemoryMedium()
    assert Prefetch(1536, 1024).run(medium).good
    assert medium.prefetched == [(1536, 1024)]


def test_spans() -> None:
    assert ReadBlocks(512, 1024).span == WriteBlocks(512, bytes(1024)).span == (512, 1536)
    assert VerifyBlocks(512, 1024).span == Prefetch(512, 1024).span == (512, 1536)
    assert Flush().span == (0, 0)


class TestWork:
    def test_write_then_read(self) -> None:
        medium = MemoryMedium()
        assert WriteBlocks(512, b"x" * 512).run(medium).good
        assert medium.flushed == bytes(len(medium.data))
        assert ReadBlocks(0, 1024).run(medium) == Response(Status.GOOD, bytes(512) + b"x" * 512)

    def test_fua_writes_to_stable_storage(self) -> None:
        medium = MemoryMedium()
        assert WriteBlocks(0, b"x" * 512, fua=True).run(medium).good
        assert medium.flushed[:512] == b"x" * 512

    def test_fua_reads_what_is_on_stable_storage(self) -> None:
        medium = MemoryMedium()
        WriteBlocks(0, b"x" * 512).run(medium)
        assert ReadBlocks(0, 512, fua=True).run(medium).data_in == b"x" * 512
        assert medium.flushed[:512] == b"x" * 512

    def test_flush(self) -> None:
        medium = MemoryMedium()
        WriteBlocks(0, b"x" * 512).run(medium)
        assert Flush().run(medium).good
        assert medium.flushed[:512] == b"x" * 512

    def test_verify(self) -> None:
        medium = MemoryMedium()
        WriteBlocks(512, b"x" * 512).run(medium)
        assert VerifyBlocks(0, 1024).run(medium).good
        assert VerifyBlocks(512, 512, b"x" * 512).run(medium).good
        wrong = VerifyBlocks(512, 512, b"x" * 511 + b"y").run(medium)
        assert sense_of(wrong) == (
            SenseKey.MISCOMPARE,
            AdditionalSense.MISCOMPARE_DURING_VERIFY_OPERATION,
        )

    @pytest.mark.parametrize(
        ("work", "sense"),
        [
            (ReadBlocks(0, 512), AdditionalSense.UNRECOVERED_READ_ERROR),
            (VerifyBlocks(0, 512), AdditionalSense.UNRECOVERED_READ_ERROR),
            (WriteBlocks(0, bytes(512)), AdditionalSense.WRITE_ERROR),
            (Flush(), AdditionalSense.WRITE_ERROR),
        ],
    )
    def test_a_broken_medium(self, work: MediumWork, sense: AdditionalSense) -> None:
        medium = MemoryMedium()
        medium.failure = OSError(errno.EIO, "Input/output error")
        assert sense_of(work.run(medium)) == (SenseKey.MEDIUM_ERROR, sense)

    @pytest.mark.parametrize("work", [WriteBlocks(0, bytes(512)), Flush()])
    def test_a_full_file_system(self, work: MediumWork) -> None:
        medium = MemoryMedium()
        medium.failure = disk_full()
        assert sense_of(work.run(medium)) == (
            SenseKey.DATA_PROTECT,
            AdditionalSense.SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
        )

    def test_what_belongs_in_a_thread(self) -> None:
        assert not ReadBlocks(0, 256 * 1024).slow
        assert ReadBlocks(0, 256 * 1024 + 512).slow
        assert ReadBlocks(0, 512, fua=True).slow
        assert not WriteBlocks(0, bytes(4096)).slow
        assert WriteBlocks(0, bytes(4096), fua=True).slow
        assert Flush().slow
