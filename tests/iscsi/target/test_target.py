"""The asyncio target, with our initiator over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random

import pytest

from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.errors import ConnectError, ConnectionLost, IscsiNameError, LoginError
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.numbers import LoginStatus
from holdover.iscsi.target.target import IscsiTarget, SessionChange
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import describe_response
from tests.iscsi.loopback import OTHER_ISID, login, run, setting
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import BLOCK, HOLD, TEST_UNIT_READY, RamDisk, read, write

NEXUS = ITNexus(IscsiTransportID(INITIATOR, ISID), 1)
INQUIRY = Command(bytes([0x12, 0, 0, 0, 96, 0]), data_in_length=96)
REPORT_LUNS = Command(bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), data_in_length=256)


def test_reads_and_writes_of_several_logical_units() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            data = random.Random(1).randbytes(1000 * BLOCK)
            assert (await initiator.execute(300, write(7, data))).good
            assert (await initiator.execute(300, read(7, 1000))).data_in == data
            assert (await initiator.execute(0, read(7, 2))).data_in == bytes(2 * BLOCK)
            assert here.disk.nexuses == here.other_disk.nexuses == {NEXUS}
            await initiator.close()

    run(test)


def test_many_commands_in_flight() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            answers = await asyncio.gather(
                *(initiator.execute(0, write(number, bytes([number % 256]) * BLOCK)) for number in range(600))
            )
            assert all(answer.good for answer in answers)
            answers = await asyncio.gather(*(initiator.execute(0, read(number, 1)) for number in range(600)))
            assert [answer.data_in[0] for answer in answers] == [number % 256 for number in range(600)]
            await initiator.close()

    run(test)


@pytest.mark.parametrize("initial_r2t", [True, False])
@pytest.mark.parametrize("immediate", [True, False])
def test_large_transfers(initial_r2t: bool, immediate: bool) -> None:
    async def test() -> None:
        async with setting() as here:
            limits = NegotiationLimits(initial_r2t, immediate, 4096, 65536, 8192)
            initiator = await here.connect(limits=limits)
            data = random.Random(2).randbytes(2048 * BLOCK)
            for _ in range(3):
                assert (await initiator.execute(0, write(1, data))).good
                assert (await initiator.execute(0, read(1, 2048))).data_in == data
            await initiator.close()

    run(test)


def test_answers_that_nobody_takes_do_not_pile_up() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            transport = initiator._transport
            assert transport is not None
            transport.pause_reading()
            tasks = [asyncio.create_task(initiator.execute(0, read(0, 4096))) for _ in range(60)]
            await asyncio.sleep(0.2)
            transport.resume_reading()
            assert {len(answer.data_in) for answer in await asyncio.gather(*tasks)} == {4096 * BLOCK}
            await initiator.close()

    run(test)


def test_what_is_not_there() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            assert (await initiator.execute(5, INQUIRY)).data_in[0] == 0x7F
            for lun in (5, 256, 16383):
                words = describe_response(await initiator.execute(lun, TEST_UNIT_READY))
                assert "LOGICAL UNIT NOT SUPPORTED" in words
            for lun in (0, 300):
                found = (await initiator.execute(lun, REPORT_LUNS)).data_in
                assert found.hex() == "00000010000000000000000000000000412c000000000000"
            await initiator.close()

    run(test)


def test_a_fault_in_a_device_server_is_an_internal_target_failure() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            words = describe_response(await initiator.execute(0, Command(bytes([0xC1, 0, 0, 0, 0, 0]))))
            assert "INTERNAL TARGET FAILURE" in words
            assert (await initiator.execute(0, TEST_UNIT_READY)).good
            await initiator.close()

    run(test)


class QuickDisk(RamDisk):
    """Answers at once what it need not hold."""

    def execute_now(self, nexus: ITNexus, command: Command) -> Response | None:
        return None if command.opcode == HOLD.opcode else self.answer(command)

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        assert command.opcode == HOLD.opcode
        return await super().execute(nexus, command)


def test_device_servers_that_answer_at_once() -> None:
    async def test() -> None:
        disk = QuickDisk()
        async with setting(luns={1: disk}) as here:
            initiator = await here.connect()
            assert (await initiator.execute(1, write(0, b"x" * BLOCK))).good
            held = asyncio.create_task(initiator.execute(1, HOLD))
            await here.until(lambda: disk.held == 1)
            assert (await initiator.execute(1, read(0, 1))).data_in == b"x" * BLOCK
            words = describe_response(await initiator.execute(1, Command(bytes([0xC1, 0, 0, 0, 0, 0]))))
            assert "INTERNAL TARGET FAILURE" in words
            held.cancel()
            await initiator.close()

    run(test)


def test_a_login_of_the_same_port_ends_the_earlier_session_first() -> None:
    async def test() -> None:
        async with setting() as here:
            here.disk.linger = asyncio.Event()
            first = await here.connect()
            held = asyncio.create_task(first.execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            other = await here.connect(OTHER_ISID)
            again = asyncio.create_task(here.connect())
            with pytest.raises(ConnectionLost, match="no answer came"):
                await held
            # Not before the last command of the earlier session has stopped.
            await asyncio.sleep(0.05)
            assert not again.done()
            here.disk.linger.set()
            second = await again
            assert here.disk.cancelled == 1
            assert here.disk.lost == here.other_disk.lost == [NEXUS]
            assert (await second.execute(0, TEST_UNIT_READY)).good
            assert (await other.execute(0, TEST_UNIT_READY)).good
            assert [session.isid for session in here.target.sessions()] == [OTHER_ISID, ISID]
            await second.close()
            await other.close()

    run(test)


def test_pings_are_answered_while_a_command_is_held() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await IscsiInitiator.connect(
                "127.0.0.1", here.port, TARGET, INITIATOR, ISID, ping_interval=0.01, ping_timeout=10
            )
            held = asyncio.create_task(initiator.execute(0, HOLD))
            await asyncio.sleep(0.1)
            assert not held.done()
            assert initiator.lost is None
            held.cancel()
            await initiator.close()

    run(test)


def test_the_end_of_a_connection_cancels_its_commands() -> None:
    changes: list[SessionChange] = []

    async def test() -> None:
        async with setting(on_session=changes.append) as here:
            initiator = await here.connect()
            held = asyncio.create_task(initiator.execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            assert initiator._transport is not None
            initiator._transport.abort()
            with pytest.raises(ConnectionLost):
                await held
            await here.until(lambda: not here.target.sessions())
            assert (here.disk.held, here.disk.cancelled) == (0, 1)

    run(test)
    began, ended = changes
    assert (began.session.initiator, began.session.nexus, began.ended) == (INITIATOR, NEXUS, None)
    assert began.session.peer.startswith("127.0.0.1:")
    assert ended.session.tsih == began.session.tsih
    assert ended.ended


def test_closing_the_target_ends_everything() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            held = asyncio.create_task(initiator.execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            await here.target.close()
            assert here.disk.cancelled == 1
            with pytest.raises(ConnectionLost):
                await held
            with pytest.raises(ConnectError, match="cannot connect"):
                await here.connect()

    run(test)


def test_chap_right_and_wrong() -> None:
    async def test() -> None:
        async with setting(credentials=ChapCredentials("anna", "right")) as here:
            for wrong in ((None, None), ("anna", "wrong"), ("otto", "right")):
                with pytest.raises(LoginError) as raised:
                    await here.connect(credentials=wrong)
                assert raised.value.status is LoginStatus.AUTHENTICATION_FAILURE
            initiator = await here.connect(credentials=("anna", "right"))
            assert (await initiator.execute(0, TEST_UNIT_READY)).good
            await initiator.close()

    run(test)


def test_no_more_sessions_than_allowed() -> None:
    async def test() -> None:
        async with setting(max_sessions=1) as here:
            first = await here.connect()
            with pytest.raises(LoginError) as raised:
                await here.connect(OTHER_ISID)
            assert raised.value.status is LoginStatus.OUT_OF_RESOURCES
            # The same port again is no more than one.
            second = await here.connect()
            assert first.lost is not None
            await second.close()

    run(test)


def test_a_cluster_of_64_nodes_with_4_paths_logs_in_to_each_of_many_disks(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with setting(max_sessions=None) as here:
            # 256 for each of two LUNs
            isids = [bytes([0x80, 0, 0, 0, *number.to_bytes(2)]) for number in range(514)]
            initiators = [await here.connect(isid) for isid in isids[:512]]
            for isid in isids[512:]:
                with pytest.raises(LoginError) as raised:
                    await here.connect(isid)
                assert raised.value.status is LoginStatus.OUT_OF_RESOURCES
            for initiator in initiators:
                await initiator.close()

    run(test)
    (record,) = caplog.records
    assert "there are 512 sessions, the most that it takes; to have more, set max_sessions" in record.message


def test_a_login_that_does_not_come_to_an_end() -> None:
    async def test() -> None:
        async with setting(login_timeout=0.05) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(test)


def test_the_oldest_goes_of_too_many_connections_that_have_not_logged_in() -> None:
    async def test() -> None:
        async with setting(max_logins=2) as here:
            logged_in = await here.connect()
            silent = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(3)]
            reader, _ = silent[0]
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            other = await here.connect(OTHER_ISID)
            for initiator in (logged_in, other):
                assert (await initiator.execute(0, TEST_UNIT_READY)).good
                await initiator.close()
            for _, writer in silent:
                writer.close()

    run(test)


@pytest.mark.parametrize(("tsih", "status"), [(1, "0206"), (2, "020a")])
def test_a_second_connection_of_a_session_is_refused(tsih: int, status: str) -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            writer.write(login(tsih))
            answer = await reader.readexactly(48)
            assert answer[36:38].hex() == status
            assert (await initiator.execute(0, TEST_UNIT_READY)).good
            writer.close()
            await initiator.close()

    run(test)


def test_names_and_numbers_are_checked() -> None:
    with pytest.raises(IscsiNameError):
        IscsiTarget("disk", {})
    with pytest.raises(ValueError, match="logical unit number 16384"):
        IscsiTarget(TARGET, {16384: RamDisk()})
