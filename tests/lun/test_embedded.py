"""None"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.lun.embedded import EmbeddedLun
from holdover.lun.errors import LunError, MediumError, StoreError
from holdover.lun.medium import FileMedium
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState
from holdover.lun.store import ReservationStore
from holdover.scsi.cdbs.cdb import Read, Sanitize, StartStopUnit, SynchronizeCache, Write
from holdover.scsi.cdbs.opcodes import OutServiceAction as Out
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.cdbs.opcodes import SanitizeServiceAction
from holdover.scsi.command import Command, DeviceServer, Response
from holdover.scsi.inquiry import DesignatorType
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, is_unit_attention
from holdover.scsi.status import Status
from tests.lun.embedded import BLOCK_ERASE, COMPARE_AND_WRITE, LARGE_WRITE, SIZE, Gate, options, run
from tests.lun.support import (
    READ_10,
    TEST_UNIT_READY,
    WRITE_10,
    A,
    B,
    attention,
    mode_select,
    sense_of,
)


async def register_and_reserve(lun: EmbeddedLun, *, aptpl: bool) -> None:
    assert (await lun.execute(A, out_command(Out.REGISTER, 0, 1, aptpl=aptpl))).good
    assert (await lun.execute(A, out_command(Out.RESERVE, 1, type=Type.WRITE_EXCLUSIVE))).good


def test_it_is_a_device_server(tmp_path: Path) -> None:
    async def session(lun: EmbeddedLun) -> None:
        server: DeviceServer = lun
        assert (await server.execute(A, WRITE_10)).good
        assert (await server.execute(B, READ_10)).data_in == b"w" * 512

    run(tmp_path, session)


def test_large_and_flushed_commands(tmp_path: Path) -> None:
    async def session(lun: EmbeddedLun) -> None:
        assert (await lun.execute(A, LARGE_WRITE)).good
        assert (await lun.execute(A, Command(SynchronizeCache(0, 0).encode()))).good
        assert (await lun.execute(A, Command(Write(0, 1, 16, fua=True).encode(), b"f" * 512))).good
        found = await lun.execute(A, Command(Read(0, 2049, 16).encode()))
        assert found.data_in == b"f" * 512 + b"L" * ((1 << 20) - 512) + bytes(512)

    run(tmp_path, session)


class TestThroughPowerLoss:
    def test_with_aptpl_everything_stays(self, tmp_path: Path) -> None:
        async def before(lun: EmbeddedLun) -> None:
            await register_and_reserve(lun, aptpl=True)

        async def after(lun: EmbeddedLun) -> None:
            assert lun.state.key_of(A) == 1
            assert lun.state.holds(A)
            assert lun.state.aptpl
            assert lun.state.generation == 0
            assert (await lun.execute(B, WRITE_10)).status is Status.RESERVATION_CONFLICT

        run(tmp_path, before)
        run(tmp_path, after)

    def test_without_aptpl_nothing_stays(self, tmp_path: Path) -> None:
        async def before(lun: EmbeddedLun) -> None:
            await register_and_reserve(lun, aptpl=False)

        async def after(lun: EmbeddedLun) -> None:
            assert lun.state == ReservationState()

        run(tmp_path, before)
        assert not (tmp_path / "lun.pr").exists()
        run(tmp_path, after)

    def test_the_last_aptpl_counts(self, tmp_path: Path) -> None:
        async def before(lun: EmbeddedLun) -> None:
            await register_and_reserve(lun, aptpl=True)
            assert (tmp_path / "lun.pr").exists()
            assert (await lun.execute(B, out_command(Out.REGISTER, 0, 2, aptpl=False))).good
            assert not (tmp_path / "lun.pr").exists()

        async def after(lun: EmbeddedLun) -> None:
            assert lun.state == ReservationState()

        run(tmp_path, before)
        run(tmp_path, after)

    def test_every_acknowledged_step_is_found_by_a_restart(self, tmp_path: Path) -> None:
        """What the file says right after each status is what a crash at that instant would leave."""

        async def session(lun: EmbeddedLun) -> None:
            for nexus, command in (
                (A, out_command(Out.REGISTER, 0, 1, aptpl=True)),
                (B, out_command(Out.REGISTER, 0, 2, aptpl=True)),
                (A, out_command(Out.RESERVE, 1, type=Type.EXCLUSIVE_ACCESS)),
                (B, out_command(Out.PREEMPT, 2, 1, type=Type.WRITE_EXCLUSIVE)),
                (B, out_command(Out.RELEASE, 2, type=Type.WRITE_EXCLUSIVE)),
                (B, out_command(Out.CLEAR, 2)),
            ):
                assert (await lun.execute(nexus, command)).good
                kept = ReservationStore(tmp_path / "lun").load()
                assert kept == lun.state.after_power_loss()

        run(tmp_path, session)

    def test_what_cannot_be_kept_is_not_done(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def session(lun: EmbeddedLun) -> None:
            await register_and_reserve(lun, aptpl=True)
            before = lun.state

            def refuse(store: ReservationStore, state: ReservationState) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(ReservationStore, "save", refuse)
            response = await lun.execute(A, out_command(Out.CLEAR, 1))
            expected = (SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)
            assert sense_of(response) == expected
            assert lun.state is before

        run(tmp_path, session)

    def test_the_status_waits_for_the_store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, ReservationStore, "save")
            first = asyncio.create_task(lun.execute(A, out_command(Out.REGISTER, 0, 1, aptpl=True)))
            await gate.wait_entered()
            second = asyncio.create_task(lun.execute(B, out_command(Out.REGISTER, 0, 2, aptpl=True)))
            assert (await lun.execute(B, WRITE_10)).good
            assert not first.done()
            assert not second.done()
            assert lun.state == ReservationState()
            gate.open()
            assert (await first).good
            assert (await second).good
            assert (lun.state.key_of(A), lun.state.key_of(B)) == (1, 2)
            assert ReservationStore(tmp_path / "lun").load() == lun.state.after_power_loss()

        run(tmp_path, session)

    def test_an_aborted_reservation_command_leaves_file_and_memory_in_agreement(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, ReservationStore, "save")
            task = asyncio.create_task(lun.execute(A, out_command(Out.REGISTER, 0, 1, aptpl=True)))
            await gate.wait_entered()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open()
            await lun.reset()  # waits for what was begun
            assert lun.state.key_of(A) == 1
            assert ReservationStore(tmp_path / "lun").load() == lun.state.after_power_loss()

        run(tmp_path, session)

    def test_a_damaged_store_keeps_the_lun_shut(self, tmp_path: Path) -> None:
        async def before(lun: EmbeddedLun) -> None:
            await register_and_reserve(lun, aptpl=True)

        run(tmp_path, before)
        (tmp_path / "lun.pr").write_bytes(b"{}")
        for _ in range(2):  # the second time shows that the first gave the lock back
            with pytest.raises(StoreError, match=r"lun\.pr is damaged"):
                EmbeddedLun.open(options(tmp_path))
        assert (tmp_path / "lun.pr").read_bytes() == b"{}"


class TestIdentity:
    def test_the_same_file_keeps_its_name_when_moved(self, tmp_path: Path) -> None:
        names = []

        async def session(lun: EmbeddedLun) -> None:
            names.append(lun.designator)
            assert lun.designator.type is DesignatorType.NAA

        for folder in ("one", "two", "three"):
            (tmp_path / folder).mkdir()
        run(tmp_path / "one", session)
        for file in (tmp_path / "one").iterdir():
            file.rename(tmp_path / "two" / file.name)
        run(tmp_path / "two", session)
        run(tmp_path / "three", session)
        assert names[0] == names[1] != names[2]

    def test_a_serial_number_of_ones_own(self, tmp_path: Path) -> None:
        async def body() -> None:
            lun = EmbeddedLun.open(LunOptions(tmp_path / "lun", SIZE, "mine"))
            other = EmbeddedLun.open(LunOptions(tmp_path / "other", SIZE, "mine"))
            assert lun.designator == other.designator
            await lun.close()
            await other.close()

        asyncio.run(body())
        assert not (tmp_path / "lun.serial").exists()


class TestAborting:
    def test_preempt_and_abort_waits_for_the_writes_of_the_preempted(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session(lun: EmbeddedLun) -> None:
            await lun.execute(A, out_command(Out.REGISTER, 0, 1))
            await lun.execute(B, out_command(Out.REGISTER, 0, 2))
            gate = Gate(monkeypatch, FileMedium, "write")
            write = asyncio.create_task(lun.execute(A, LARGE_WRITE))
            other = asyncio.create_task(lun.execute(B, LARGE_WRITE))
            await gate.wait_entered()
            preempt = asyncio.create_task(lun.execute(B, out_command(Out.PREEMPT_AND_ABORT, 2, 1)))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not lun.state.key_of(A)
            assert not preempt.done()
            gate.open()
            assert (await preempt).good
            assert (await write).status is Status.TASK_ABORTED
            assert (await other).good

        run(tmp_path, session)

    def test_a_reset_aborts_everything(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, FileMedium, "write")
            write = asyncio.create_task(lun.execute(A, LARGE_WRITE))
            await gate.wait_entered()
            reset = asyncio.create_task(lun.reset())
            await asyncio.sleep(0)
            gate.open()
            await reset
            assert (await write).status is Status.TASK_ABORTED
            for nexus in (A, B):
                assert sense_of(await lun.execute(nexus, TEST_UNIT_READY)) == attention(
                    AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED
                )

        run(tmp_path, session)

    def test_a_lost_nexus_loses_its_commands_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, FileMedium, "write")
            tasks = [asyncio.create_task(lun.execute(nexus, LARGE_WRITE)) for nexus in (A, B)]
            await gate.wait_entered()
            lost = asyncio.create_task(lun.nexus_lost(A))
            await asyncio.sleep(0)
            gate.open()
            await lost
            assert (await tasks[0]).status is Status.TASK_ABORTED
            assert (await tasks[1]).good

        run(tmp_path, session)

    def test_a_cancelled_write_is_over_when_the_cancelling_is(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def session(lun: EmbeddedLun) -> None:
            gate = Gate(monkeypatch, FileMedium, "write")
            write = asyncio.create_task(lun.execute(A, LARGE_WRITE))
            await gate.wait_entered()
            for _ in range(3):  # whoever is impatient waits all the same
                write.cancel()
                await asyncio.sleep(0)
            assert not write.done()
            gate.open()
            with pytest.raises(asyncio.CancelledError):
                await write
            assert (tmp_path / "lun").read_bytes()[: 1 << 20] == b"L" * (1 << 20)

        run(tmp_path, session)


class TestAnswersAtOnce:
    def test_what_need_not_wait(self, tmp_path: Path) -> None:
        async def session(lun: EmbeddedLun) -> None:
            written = lun.execute_now(A, WRITE_10)
            found = lun.execute_now(B, READ_10)
            assert written is not None
            assert found is not None
            assert found.data_in == b"w" * 512

        run(tmp_path, session)

    def test_what_has_to_wait_is_not_begun(self, tmp_path: Path) -> None:
        async def session(lun: EmbeddedLun) -> None:
            for command in (
                LARGE_WRITE,
                Command(SynchronizeCache(0, 0).encode()),
                out_command(Out.REGISTER, 0, 1),
                Command(Sanitize(SanitizeServiceAction.BLOCK_ERASE).encode()),
                Command(StartStopUnit(start=False).encode()),
                mode_select(write_cache=False),
            ):
                assert lun.execute_now(A, command) is None
            assert lun.state == ReservationState()
            assert (await lun.execute(A, TEST_UNIT_READY)).good
            assert (await lun.execute(A, READ_10)).data_in == bytes(512)

        run(tmp_path, session)

    def test_a_unit_attention_is_told_once(self, tmp_path: Path) -> None:
        async def session(lun: EmbeddedLun) -> None:
            await lun.reset()
            told = lun.execute_now(A, LARGE_WRITE)
            assert told is not None
            assert is_unit_attention(told)
            assert (await lun.execute(A, LARGE_WRITE)).good

        run(tmp_path, session)


class TestWriteCache:
    def test_a_write_without_a_write_cache_is_flushed_before_its_status(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushes = []
        inner = FileMedium.flush

        def counted(medium: FileMedium) -> None:
            flushes.append(medium)
            inner(medium)

        async def session(lun: EmbeddedLun) -> None:
            monkeypatch.setattr(FileMedium, "flush", counted)
            assert (await lun.execute(A, WRITE_10)).good
            assert len(flushes) == 0
            assert (await lun.execute(A, mode_select(write_cache=False))).good
            assert len(flushes) == 1  # what was in the cache
            await lun.execute(B, TEST_UNIT_READY)  # told that the mode parameters have changed
            for number, command in enumerate((WRITE_10, LARGE_WRITE, COMPARE_AND_WRITE), 2):
                assert (await lun.execute(B, command)).good
                assert len(flushes) == number

        run(tmp_path, session)


def test_a_read_only_lun(tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(MediumError, match="does not exist"):
            EmbeddedLun.open(LunOptions(tmp_path / "lun", SIZE, read_only=True))
        (tmp_path / "lun").write_bytes(b"r" * SIZE)
        lun = EmbeddedLun.open(LunOptions(tmp_path / "lun", None, read_only=True))
        await lun.execute(A, TEST_UNIT_READY)
        assert (await lun.execute(A, READ_10)).data_in == b"r" * 512
        for command in (WRITE_10, LARGE_WRITE, COMPARE_AND_WRITE, BLOCK_ERASE):
            assert sense_of(await lun.execute(A, command)) == (
                SenseKey.DATA_PROTECT,
                AdditionalSense.WRITE_PROTECTED,
            )
        assert (await lun.execute(A, Command(SynchronizeCache(0, 0).encode()))).good
        assert (await lun.execute(A, out_command(Out.REGISTER, 0, 1, aptpl=True))).good
        await lun.close()
        assert (tmp_path / "lun").read_bytes() == b"r" * SIZE

    asyncio.run(body())


class TestOpening:
    def test_another_process_is_refused(self, tmp_path: Path) -> None:
        async def session(lun: EmbeddedLun) -> None:
            script = (
                "import pathlib, sys\n"
                "from holdover.lun.embedded import EmbeddedLun\n"
                "from holdover.lun.options import LunOptions\n"
                "EmbeddedLun.open(LunOptions(pathlib.Path(sys.argv[1])))\n"
            )
            path = str(tmp_path / "lun")
            found = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", script, path],
                capture_output=True,
                text=True,
                check=False,
            )
            assert found.returncode == 1
            assert f"{path} is in use" in found.stderr
            assert (await lun.execute(A, WRITE_10)).good

        run(tmp_path, session)

    def test_another_size_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "lun").write_bytes(bytes(512))
        with pytest.raises(MediumError, match=f"512 bytes, but a size of {SIZE}"):
            EmbeddedLun.open(options(tmp_path))

    def test_every_refusal_is_a_lun_error(self) -> None:
        assert issubclass(MediumError, LunError)
        assert issubclass(StoreError, LunError)

    def test_after_closing_nothing_is_written(self, tmp_path: Path) -> None:
        async def body() -> Response:
            lun = EmbeddedLun.open(options(tmp_path))
            await lun.execute(A, TEST_UNIT_READY)
            await lun.close()
            return await lun.execute(A, WRITE_10)

        assert sense_of(asyncio.run(body())) == (
            SenseKey.MEDIUM_ERROR,
            AdditionalSense.WRITE_ERROR,
        )
        assert (tmp_path / "lun").read_bytes() == bytes(SIZE)


def test_ports_reach_the_rules(tmp_path: Path) -> None:
    async def body() -> None:
        lun = EmbeddedLun.open(options(tmp_path), ports=(1, 2))
        a2 = ITNexus(A.initiator, 2)
        await lun.execute(A, TEST_UNIT_READY)
        command = out_command(Out.REGISTER, 0, 1)
        data = bytearray(command.data_out)
        data[20] |= 0x04  # ALL_TG_PT
        assert (await lun.execute(A, Command(command.cdb, bytes(data)))).good
        assert lun.state.key_of(a2) == 1
        await lun.close()

    asyncio.run(body())
