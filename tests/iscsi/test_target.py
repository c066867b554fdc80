"""The asyncio target, with our initiator over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

import pytest

from holdover.iscsi.chap import Credentials
from holdover.iscsi.errors import ConnectError, ConnectionLost, IscsiNameError, LoginError
from holdover.iscsi.initiator import IscsiInitiator, send_targets
from holdover.iscsi.negotiation import Limits
from holdover.iscsi.numbers import NO_TAG, LoginStatus, TaskManagementFunction
from holdover.iscsi.requests import LoginRequest, NopOut, ScsiCommand, TaskManagementRequest
from holdover.iscsi.target import IscsiTarget, SessionChange
from holdover.iscsi.text import encode_text
from holdover.scsi.command import Command, DeviceServer, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import describe_response
from holdover.scsi.status import Status
from holdover.scsi.transport_id import IscsiTransportID
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import BLOCK, HOLD, TEST_UNIT_READY, RamDisk, read, write

OTHER_ISID = b"\x80\x99\2\3\4\5"
NEXUS = ITNexus(IscsiTransportID(INITIATOR, ISID), 1)
INQUIRY = Command(bytes([0x12, 0, 0, 0, 96, 0]), data_in_length=96)
REPORT_LUNS = Command(bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), data_in_length=256)


class Setting:
    """A target with two disks, LUNs 0 and 300, and initiators for it."""

    def __init__(self, target: IscsiTarget, disks: tuple[RamDisk, RamDisk], port: int) -> None:
        self.target = target
        self.disk, self.other_disk = disks
        self.port = port

    async def connect(
        self,
        isid: bytes = ISID,
        credentials: tuple[str | None, str | None] = (None, None),
        limits: Limits | None = None,
    ) -> IscsiInitiator:
        user, password = credentials
        return await IscsiInitiator.connect(
            "127.0.0.1",
            self.port,
            TARGET,
            INITIATOR,
            isid,
            user=user,
            password=password,
            limits=limits,
            ping_interval=None,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(20000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it has not come to that")


@contextlib.asynccontextmanager
async def setting(
    *,
    credentials: Credentials | None = None,
    max_sessions: int = 64,
    login_timeout: float = 15.0,
    on_session: Callable[[SessionChange], None] | None = None,
    luns: Mapping[int, DeviceServer] | None = None,
) -> AsyncIterator[Setting]:
    disks = RamDisk(), RamDisk()
    target = IscsiTarget(
        TARGET,
        {0: disks[0], 300: disks[1], **(luns or {})},
        credentials=credentials,
        max_sessions=max_sessions,
        login_timeout=login_timeout,
        on_session=on_session,
    )
    port = await target.start("127.0.0.1", 0)
    try:
        yield Setting(target, disks, port)
    finally:
        await target.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(limited())


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
            limits = Limits(initial_r2t, immediate, 4096, 65536, 8192)
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


def test_aborting_a_command_cancels_it_before_it_is_answered() -> None:
    async def test() -> None:
        async with setting() as here:
            initiator = await here.connect()
            held = asyncio.create_task(initiator.execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            held.cancel()
            with pytest.raises(asyncio.CancelledError):
                await held
            assert (here.disk.held, here.disk.cancelled) == (0, 1)
            assert here.target.sessions()[0].open_commands == 0
            assert (await initiator.execute(0, TEST_UNIT_READY)).good
            await initiator.close()

    run(test)


def test_a_reset_ends_the_commands_of_all_sessions() -> None:
    async def test() -> None:
        async with setting() as here:
            one, two = await here.connect(), await here.connect(OTHER_ISID)
            mine = asyncio.create_task(one.execute(0, HOLD))
            theirs = asyncio.create_task(two.execute(0, HOLD))
            elsewhere = asyncio.create_task(two.execute(300, HOLD))
            await here.until(lambda: here.disk.held == 2 and here.other_disk.held == 1)
            await one.reset_logical_unit(0)
            assert (await theirs).status is Status.TASK_ABORTED
            assert (here.disk.cancelled, here.disk.resets) == (2, 1)
            assert (here.other_disk.held, here.other_disk.resets) == (1, 0)
            for task in (mine, elsewhere):
                task.cancel()
            await asyncio.wait([mine, elsewhere])
            await one.close()
            await two.close()

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
        async with setting(credentials=Credentials("anna", "right")) as here:
            for wrong in ((None, None), ("anna", "wrong"), ("otto", "right")):
                with pytest.raises(LoginError) as raised:
                    await here.connect(credentials=wrong)
                assert raised.value.status is LoginStatus.AUTHENTICATION_FAILURE
            initiator = await here.connect(credentials=("anna", "right"))
            assert (await initiator.execute(0, TEST_UNIT_READY)).good
            await initiator.close()

    run(test)


def test_discovery_is_no_session_of_the_table() -> None:
    changes: list[SessionChange] = []

    async def test() -> None:
        async with setting(on_session=changes.append) as here:
            (found,) = await send_targets("127.0.0.1", here.port, initiator_name=INITIATOR, isid=ISID)
            assert (found.name, found.addresses) == (TARGET, (f"127.0.0.1:{here.port},1",))

    run(test)
    assert changes == []


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


def test_a_login_that_does_not_come_to_an_end() -> None:
    async def test() -> None:
        async with setting(login_timeout=0.05) as here:
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()

    run(test)


def test_connections_that_have_not_logged_in_are_limited() -> None:
    async def test() -> None:
        async with setting(max_sessions=2) as here:
            idle = [await asyncio.open_connection("127.0.0.1", here.port) for _ in range(2)]
            reader, refused = await asyncio.open_connection("127.0.0.1", here.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            for writer in (refused, *(each for _, each in idle)):
                writer.close()

    run(test)


def login(tsih: int = 0, said: dict[str, str] | None = None) -> bytes:
    pairs = {"InitiatorName": INITIATOR, "TargetName": TARGET, **(said or {})}
    request = LoginRequest(0, ISID, tsih, 1, 3, True, encode_text(pairs.items()), cmd_sn=1)
    return b"".join(request.encode())


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


@pytest.mark.parametrize(
    ("function", "lun", "response"),
    [
        (TaskManagementFunction.ABORT_TASK, 0, 1),
        (TaskManagementFunction.ABORT_TASK_SET, 0, 0),
        (TaskManagementFunction.ABORT_TASK_SET, 7, 2),
        (TaskManagementFunction.CLEAR_ACA, 0, 5),
        (TaskManagementFunction.CLEAR_TASK_SET, 0, 0),
        (TaskManagementFunction.LOGICAL_UNIT_RESET, 7, 2),
        (TaskManagementFunction.TARGET_WARM_RESET, 0, 0),
        (TaskManagementFunction.TARGET_COLD_RESET, 0, 0),
        (TaskManagementFunction.TASK_REASSIGN, 0, 4),
        (99, 0, 255),
    ],
)
def test_task_management_functions(function: int, lun: int, response: int) -> None:
    async def test() -> None:
        async with setting() as here:
            other = await here.connect(OTHER_ISID)
            theirs = asyncio.create_task(other.execute(0, HOLD))
            await here.until(lambda: here.disk.held == 1)
            reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
            request = TaskManagementRequest(9, function, lun << 48, NO_TAG, 1)
            writer.write(login())
            head = await reader.readexactly(48)
            await reader.readexactly((int.from_bytes(head[5:8]) + 3) & ~3)
            writer.write(b"".join(request.encode()))
            answer = await reader.readexactly(48)
            assert (answer[0], answer[2]) == (0x22, response)
            if function == TaskManagementFunction.TARGET_COLD_RESET:
                assert await reader.read() == b""
            writer.close()
            ends = function in (4, 6, 7)
            assert here.disk.cancelled == int(ends)
            assert here.disk.resets == here.other_disk.resets == int(function in (6, 7))
            if not ends:
                theirs.cancel()
            await asyncio.wait([theirs])
            await other.close()

    run(test)


def test_random_bytes_do_not_stop_the_target() -> None:
    async def test() -> None:
        source = random.Random(3)
        async with setting() as here:
            initiator = await here.connect()
            for _ in range(60):
                reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
                prefix = source.choice([b"", login()])
                junk = b"".join(ScsiCommand(1, 0, bytes(16), 0, 1).encode() + NopOut(1, NO_TAG, 1).encode())
                writer.write(prefix + source.choice([junk, b""]) + source.randbytes(source.randrange(2000)))
                writer.write_eof()
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()
            # The last of these may have been of the same port: only that it still serves matters.
            again = await here.connect()
            assert (await again.execute(0, TEST_UNIT_READY)).good
            await here.until(lambda: len(here.target.sessions()) == 1)
            await again.close()
            await initiator.close()

    run(test)


@pytest.mark.peer("libiscsi-bin")
def test_libiscsi_finds_the_target() -> None:
    async def test() -> None:
        async with setting() as here:
            program = await asyncio.create_subprocess_exec(
                "iscsi-ls", f"iscsi://127.0.0.1:{here.port}/", stdout=asyncio.subprocess.PIPE
            )
            output, _ = await program.communicate()
            assert output.decode().strip() == f"Target:{TARGET} Portal:127.0.0.1:{here.port},1"

    run(test)


def test_ipv6() -> None:
    async def test() -> None:
        target = IscsiTarget(TARGET, {0: RamDisk()})
        try:
            port = await target.start("::1", 0)
        except OSError:
            pytest.skip("this machine has no IPv6")
        (found,) = await send_targets("::1", port, initiator_name=INITIATOR, isid=ISID)
        assert found.addresses == (f"[::1]:{port},1",)
        await target.close()

    run(test)


def test_names_and_numbers_are_checked() -> None:
    with pytest.raises(IscsiNameError):
        IscsiTarget("disk", {})
    with pytest.raises(ValueError, match="logical unit number 16384"):
        IscsiTarget(TARGET, {16384: RamDisk()})
