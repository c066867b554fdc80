"""Work of an embedded LUN that takes long: what it keeps out, and SANITIZE."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.lun.commands.sanitize import SanitizeWork
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.medium import FileMedium
from holdover.lun.store import SanitizeStore
from holdover.scsi.block import OverwriteParameters
from holdover.scsi.cdbs.cdb import CompareAndWrite, Sanitize, Write
from holdover.scsi.cdbs.opcodes import SanitizeServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, SenseKey, is_unit_attention
from tests.lun.embedded import BLOCK_ERASE, COMPARE_AND_WRITE, LARGE_WRITE, SIZE, Gate, options, run
from tests.lun.support import (
    READ_10,
    TEST_UNIT_READY,
    WRITE_10,
    A,
    B,
    sense_of,
)

IN_PROGRESS = (SenseKey.NOT_READY, AdditionalSense.LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS)


class TestExclusiveWork:
    """COMPARE AND WRITE beside work in threads: all of it before, or all of it after."""

    def test_it_waits_for_a_write_to_its_blocks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, FileMedium, "write")
            write = asyncio.create_task(lun.execute(A, LARGE_WRITE))
            await gate.wait_entered()
            swap = asyncio.create_task(lun.execute(B, COMPARE_AND_WRITE))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not swap.done()
            assert lun.execute_now(B, COMPARE_AND_WRITE) is None
            gate.open()
            assert (await write).good
            assert (await swap).good
            assert (await lun.execute(A, READ_10)).data_in == b"N" * 512

        run(tmp_path, session)

    def test_others_wait_for_it_on_its_blocks_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, FileMedium, "flush")
            through = Command(CompareAndWrite(0, 1, fua=True).encode(), bytes(512) + b"N" * 512)
            swap = asyncio.create_task(lun.execute(A, through))
            await gate.wait_entered()
            same = asyncio.create_task(lun.execute(B, WRITE_10))
            elsewhere = await lun.execute(B, Command(Write(1, 1, 10).encode(), b"e" * 512))
            assert elsewhere.good
            assert lun.execute_now(B, READ_10) is None
            for _ in range(5):
                await asyncio.sleep(0)
            assert not same.done()
            gate.open()
            assert (await swap).good
            assert (await same).good
            assert (await lun.execute(A, READ_10)).data_in == b"w" * 512

        run(tmp_path, session)

    def test_a_race_has_one_winner(self, tmp_path: Path) -> None:
        async def session(lun: EmbeddedLun) -> None:
            def attempt(number: int) -> Command:
                data = bytes(512) + bytes([number]) * 512
                return Command(CompareAndWrite(0, 1, fua=number % 2 == 0).encode(), data)

            found = await asyncio.gather(*(lun.execute(A, attempt(number)) for number in range(1, 21)))
            winners = [number for number, each in enumerate(found, 1) if each.good]
            assert len(winners) == 1
            assert (await lun.execute(A, READ_10)).data_in == bytes(winners) * 512

        run(tmp_path, session)


class TestSanitize:
    def test_it_goes_on_whatever_happens_to_its_command(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session(lun: EmbeddedLun) -> None:
            await lun.execute(A, LARGE_WRITE)
            gate = Gate(monkeypatch, FileMedium, "unmap")
            ended, inner = asyncio.Event(), LogicalUnit.sanitized

            def sanitized(unit: LogicalUnit, work: SanitizeWork, response: Response) -> None:
                inner(unit, work, response)
                ended.set()

            monkeypatch.setattr(LogicalUnit, "sanitized", sanitized)
            command = asyncio.create_task(lun.execute(A, BLOCK_ERASE))
            await gate.wait_entered()
            assert sense_of(await lun.execute(B, READ_10)) == IN_PROGRESS
            command.cancel()
            with pytest.raises(asyncio.CancelledError):
                await command
            await lun.nexus_lost(A)
            await lun.reset()
            for nexus in (A, B):
                assert is_unit_attention(await lun.execute(nexus, TEST_UNIT_READY))
                assert sense_of(await lun.execute(nexus, TEST_UNIT_READY)) == IN_PROGRESS
            gate.open()
            await ended.wait()
            assert (await lun.execute(B, READ_10)).data_in == bytes(512)

        run(tmp_path, session)

    def test_it_waits_for_what_was_begun(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, FileMedium, "write")
            write = asyncio.create_task(lun.execute(B, LARGE_WRITE))
            await gate.wait_entered()
            erase = asyncio.create_task(lun.execute(A, BLOCK_ERASE))
            await asyncio.sleep(0)
            gate.open()
            assert (await write).good
            assert (await erase).good
            assert (tmp_path / "lun").read_bytes() == bytes(SIZE)

        run(tmp_path, session)

    def test_an_overwrite_lasts_long_enough_to_be_seen(self, tmp_path: Path) -> None:
        async def body() -> None:
            lun = EmbeddedLun.open(options(tmp_path), overwrite_seconds=3600)
            await lun.execute(A, TEST_UNIT_READY)
            data = OverwriteParameters(b"abcd").encode()
            cdb = Sanitize(SanitizeServiceAction.OVERWRITE, len(data), immed=True).encode()
            assert (await lun.execute(A, Command(cdb, data))).good
            assert sense_of(await lun.execute(A, TEST_UNIT_READY)) == IN_PROGRESS
            await lun.close()  # waits for the medium, not for the rest of the hour
            assert (tmp_path / "lun").read_bytes() == b"abcd" * (SIZE // 4)

        asyncio.run(body())

    @pytest.mark.parametrize("overwrites", [False, True])
    def test_it_is_begun_anew_after_a_loss_of_power(self, tmp_path: Path, overwrites: bool) -> None:
        (tmp_path / "lun").write_bytes(b"secret.." * (SIZE // 8))
        work = SanitizeWork(SIZE, b"z" * 512) if overwrites else SanitizeWork(SIZE)
        SanitizeStore(tmp_path / "lun").save(work)

        async def body() -> None:
            lun = EmbeddedLun.open(options(tmp_path), overwrite_seconds=0)
            assert is_unit_attention(await lun.execute(A, TEST_UNIT_READY))
            assert sense_of(await lun.execute(A, READ_10)) == IN_PROGRESS
            await lun.close()

        asyncio.run(body())
        assert (tmp_path / "lun").read_bytes() == (b"z" if overwrites else b"\0") * SIZE
        assert SanitizeStore(tmp_path / "lun").load(SIZE) is None

    def test_it_is_kept_while_it_runs_and_when_it_fails(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kept: list[SanitizeWork | None] = []

        def refuse(medium: FileMedium, offset: int, length: int) -> None:
            kept.append(SanitizeStore(tmp_path / "lun").load(SIZE))
            raise OSError(5, "Input/output error")

        async def session(lun: EmbeddedLun) -> None:
            monkeypatch.setattr(FileMedium, "unmap", refuse)
            erase = Sanitize(SanitizeServiceAction.BLOCK_ERASE, ause=True).encode()
            assert sense_of(await lun.execute(A, Command(erase)))[0] is SenseKey.MEDIUM_ERROR
            work = SanitizeWork(SIZE, ause=True)
            assert kept == [work]
            assert SanitizeStore(tmp_path / "lun").load(SIZE) == work
            leave = Sanitize(SanitizeServiceAction.EXIT_FAILURE_MODE).encode()
            assert (await lun.execute(A, Command(leave))).good
            assert SanitizeStore(tmp_path / "lun").load(SIZE) is None
            assert (await lun.execute(A, READ_10)).good

        run(tmp_path, session)

    def test_what_cannot_be_kept_is_not_done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(store: SanitizeStore, work: SanitizeWork | None) -> None:
            raise OSError(28, "No space left on device")

        async def session(lun: EmbeddedLun) -> None:
            await lun.execute(A, WRITE_10)
            monkeypatch.setattr(SanitizeStore, "save", refuse)
            assert sense_of(await lun.execute(A, BLOCK_ERASE))[0] is SenseKey.HARDWARE_ERROR
            failed = (SenseKey.MEDIUM_ERROR, AdditionalSense.SANITIZE_COMMAND_FAILED)
            assert sense_of(await lun.execute(A, READ_10)) == failed

        run(tmp_path, session)
        assert (tmp_path / "lun").read_bytes()[:512] == b"w" * 512
