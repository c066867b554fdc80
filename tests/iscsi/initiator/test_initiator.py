"""The asyncio initiator against targets that do what a good target never does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from holdover.iscsi.errors import (
    CommandRefused,
    ConnectError,
    ConnectionLost,
    IscsiNameError,
    LoginError,
    TaskManagementError,
)
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.numbers import NO_TAG, AsyncEvent
from holdover.iscsi.pdu import DamagedPdu, Pdu, PduReader
from holdover.iscsi.requests import (
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
)
from holdover.iscsi.responses import (
    AsyncMessage,
    DataIn,
    LoginResponse,
    LogoutResponsePdu,
    NopIn,
    ReadyToTransfer,
    Reject,
    ResponsePdu,
    ScsiResponse,
    TaskManagementResponsePdu,
)
from holdover.scsi.command import Command, Response
from holdover.scsi.status import Status
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import HOLD, TEST_UNIT_READY, read, write

Play = Callable[["Actor"], Awaitable[None]]


class Actor:
    """A target that answers as the test tells it, once the login is over."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._pdus = PduReader(1 << 24)

    async def receive(self) -> Pdu:
        while (pdu := self._pdus.next()) is None:
            data = await self._reader.read(65536)
            if not data:
                raise EOFError
            self._pdus.feed(data)
        assert not isinstance(pdu, DamagedPdu)
        return pdu

    async def command(self) -> ScsiCommand:
        pdu = await self.receive()
        assert isinstance(pdu, ScsiCommand)
        return pdu

    def send(self, *pdus: ResponsePdu) -> None:
        for pdu in pdus:
            self._writer.write(b"".join(pdu.encode()))

    async def login(self) -> None:
        while True:
            pdu = await self.receive()
            assert isinstance(pdu, LoginRequest)
            stage, following = pdu.stage, 1 if pdu.stage == 0 else 3
            self.send(LoginResponse(0, ISID, 5, stage, following, True, b"", 0, 0, 1, 4))
            if following == 3:
                return

    def close(self) -> None:
        self._writer.close()


@contextlib.asynccontextmanager
async def acting(play: Play, *, login: bool = True) -> AsyncIterator[int]:
    failures: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        actor = Actor(reader, writer)
        try:
            if login:
                await actor.login()
            await play(actor)
        except (EOFError, ConnectionError):
            pass
        except BaseException as error:
            failures.append(error)
            raise
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
    assert failures == []


async def connect(
    port: int, timeout: float = 600.0, ping: tuple[float | None, float] = (None, 1.0)
) -> IscsiInitiator:
    return await IscsiInitiator.connect(
        "127.0.0.1",
        port,
        TARGET,
        INITIATOR,
        ISID,
        timeout=timeout,
        ping_interval=ping[0],
        ping_timeout=ping[1],
    )


def run(play: Play, test: Callable[[int], Awaitable[None]], *, login: bool = True) -> None:
    async def both() -> None:
        async with asyncio.timeout(600), acting(play, login=login) as port:
            await test(port)

    asyncio.run(both())


def good(pdu: ScsiCommand, status: int = 0) -> ScsiResponse:
    return ScsiResponse(pdu.task_tag, status, 1, pdu.cmd_sn + 1, pdu.cmd_sn + 4)


def test_a_connection_that_goes_says_which_command_was_in_flight() -> None:
    async def play(actor: Actor) -> None:
        await actor.command()
        actor.close()

    async def test(port: int) -> None:
        initiator = await connect(port)
        with pytest.raises(ConnectionLost) as raised:
            await initiator.execute(3, TEST_UNIT_READY)
        assert (raised.value.lun, raised.value.command, raised.value.sent) == (3, TEST_UNIT_READY, True)
        assert "command 00h (CDB 00 00 00 00 00 00) for LUN 3" in str(raised.value)
        assert "no answer came" in str(raised.value)
        # After that nothing is sent any more.
        with pytest.raises(ConnectionLost) as raised:
            await initiator.execute(3, TEST_UNIT_READY)
        assert not raised.value.sent
        assert initiator.lost == await initiator.wait_lost() == "the target closed the connection"

    run(play, test)


def test_commands_that_the_window_held_back_were_not_sent() -> None:
    async def play(actor: Actor) -> None:
        for _ in range(4):
            await actor.command()
        actor.close()

    async def test(port: int) -> None:
        initiator = await connect(port)
        tasks = [asyncio.create_task(initiator.execute(0, TEST_UNIT_READY)) for _ in range(6)]
        errors = await asyncio.gather(*tasks, return_exceptions=True)
        sent = [error.sent for error in errors if isinstance(error, ConnectionLost)]
        assert sent == [True, True, True, True, False, False]

    run(play, test)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda pdu: DataIn(99, 0, 0, b"x", 1, 4), "Data-In for unknown task 99"),
        (lambda pdu: DataIn(pdu.task_tag, 1, 0, b"x", 1, 4), "Data-In 1 at 0 out of order"),
        (lambda pdu: DataIn(pdu.task_tag, 0, 1, b"x", 1, 4), "Data-In 0 at 1 out of order"),
        (lambda pdu: DataIn(pdu.task_tag, 0, 0, bytes(513), 1, 4), "Data-In up to 513 where 512"),
        (lambda pdu: ReadyToTransfer(pdu.task_tag, 1, 0, 0, 0, 5, 1, 1, 4), "R2T for 0 to 5 of 0 bytes"),
        (lambda pdu: ReadyToTransfer(99, 1, 0, 0, 0, 5, 1, 1, 4), "R2T for unknown task 99"),
        (lambda pdu: ScsiResponse(99, 0, 1, 1, 4), "SCSI Response for unknown task 99"),
        (lambda pdu: TaskManagementResponsePdu(99, 0, 1, 1, 4), "Task Management Response for unknown"),
        (lambda pdu: Reject(4, b"", 1, 1, 4), "rejects PDU FFh: protocol error"),
        (lambda pdu: LoginResponse(0, ISID, 0, 0, 0, False, b"", 0, 0, 0, 0), "unexpected PDU 23h"),
    ],
)
def test_a_target_that_breaks_the_protocol(answer: Callable[[ScsiCommand], ResponsePdu], words: str) -> None:
    async def play(actor: Actor) -> None:
        actor.send(answer(await actor.command()))
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port)
        with pytest.raises(ConnectionLost, match="the target broke the protocol") as raised:
            await initiator.execute(0, read(0, 1))
        assert words in str(raised.value)

    run(play, test)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda pdu: ScsiResponse(pdu.task_tag, 0, 1, 2, 5, response=1), "the target failed (response 01h)"),
        (lambda pdu: good(pdu, 0x77), "status 77h, which is none"),
        (lambda pdu: Reject(9, b"".join(pdu.encode()), 1, 2, 5), "rejects the command: invalid pdu field"),
        (lambda pdu: Reject(0x99, b"".join(pdu.encode()), 1, 2, 5), "rejects the command: 99h"),
    ],
)
def test_answers_that_are_no_status(answer: Callable[[ScsiCommand], ResponsePdu], words: str) -> None:
    async def play(actor: Actor) -> None:
        actor.send(answer(await actor.command()))
        actor.send(good(await actor.command()))
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port)
        with pytest.raises(CommandRefused) as raised:
            await initiator.execute(0, TEST_UNIT_READY)
        assert words in str(raised.value)
        # The session goes on.
        assert (await initiator.execute(0, TEST_UNIT_READY)).good

    run(play, test)


def test_pings_of_the_target_are_answered() -> None:
    async def play(actor: Actor) -> None:
        actor.send(NopIn(NO_TAG, 77, 1, 1, 4, lun=5))
        answer = await actor.receive()
        assert isinstance(answer, NopOut)
        assert (answer.task_tag, answer.target_tag, answer.lun, answer.immediate) == (NO_TAG, 77, 5, True)
        actor.send(good(await actor.command()))
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port)
        assert (await initiator.execute(0, TEST_UNIT_READY)).good

    run(play, test)


def test_a_target_that_has_gone_silent_is_given_up() -> None:
    async def play(actor: Actor) -> None:
        await actor.command()
        ping = await actor.receive()
        assert isinstance(ping, NopOut)
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port, ping=(0.02, 0.05))
        with pytest.raises(ConnectionLost, match="the target does not answer"):
            await initiator.execute(0, TEST_UNIT_READY)

    run(play, test)


@pytest.mark.parametrize("refused", [False, True])
def test_a_cancelled_command_is_aborted_before_the_caller_goes_on(refused: bool) -> None:
    told: list[str] = []

    async def play(actor: Actor) -> None:
        command = await actor.command()
        abort = await actor.receive()
        assert isinstance(abort, TaskManagementRequest)
        assert (abort.function, abort.referenced_tag, abort.ref_cmd_sn) == (
            1,
            command.task_tag,
            command.cmd_sn,
        )
        await asyncio.sleep(0.05)
        told.append("target")
        if refused:
            # It goes on with the command and answers it later.
            actor.send(Reject(4, b"".join(abort.encode()), 1, 2, 5))
            actor.send(good(command))
        else:
            actor.send(TaskManagementResponsePdu(abort.task_tag, 0, 1, 2, 5))
        actor.send(good(await actor.command()))
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port)
        task = asyncio.create_task(initiator.execute(0, HOLD))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        told.append("caller")
        assert (await initiator.execute(0, TEST_UNIT_READY)).good

    run(play, test)
    assert told == ["target", "caller"]


def test_a_reset_that_the_target_does_not_do() -> None:
    async def play(actor: Actor) -> None:
        for response in (5, 77):
            pdu = await actor.receive()
            assert isinstance(pdu, TaskManagementRequest)
            assert (pdu.function, pdu.lun) == (5, 2 << 48)
            actor.send(TaskManagementResponsePdu(pdu.task_tag, response, 1, 1, 4))
        await actor.receive()
        actor.close()

    async def test(port: int) -> None:
        initiator = await connect(port)
        with pytest.raises(TaskManagementError, match="RESET of LUN 2: FUNCTION NOT SUPPORTED"):
            await initiator.reset_logical_unit(2)
        with pytest.raises(TaskManagementError, match="response 77"):
            await initiator.reset_logical_unit(2)
        with pytest.raises(ConnectionLost):
            await initiator.reset_logical_unit(2)

    run(play, test)


@pytest.mark.parametrize("busy", [False, True])
def test_a_target_that_asks_for_a_logout_gets_one_when_nothing_is_in_flight(busy: bool) -> None:
    async def play(actor: Actor) -> None:
        command = await actor.command() if busy else None
        actor.send(AsyncMessage(AsyncEvent.LOGOUT_REQUESTED, 1, 1, 4, parameter3=20))
        if command is not None:
            await asyncio.sleep(0.05)
            actor.send(good(command))
        logout = await actor.receive()
        assert isinstance(logout, LogoutRequest)
        actor.send(LogoutResponsePdu(logout.task_tag, 0, 2, 2, 5))

    async def test(port: int) -> None:
        initiator = await connect(port)
        if busy:
            assert (await initiator.execute(0, TEST_UNIT_READY)).good
        assert await initiator.wait_lost() == "logged out"

    run(play, test)


def test_a_target_that_says_that_it_drops_the_connection() -> None:
    async def play(actor: Actor) -> None:
        await actor.command()
        actor.send(AsyncMessage(AsyncEvent.SESSION_DROPPED, 1, 1, 4))
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port)
        with pytest.raises(ConnectionLost, match="drops the connection"):
            await initiator.execute(0, TEST_UNIT_READY)

    run(play, test)


def test_closing_logs_out_and_fails_what_is_in_flight() -> None:
    async def play(actor: Actor) -> None:
        await actor.command()
        logout = await actor.receive()
        assert isinstance(logout, LogoutRequest)
        actor.send(LogoutResponsePdu(logout.task_tag, 0, 1, 2, 5))
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port)
        task = asyncio.create_task(initiator.execute(0, HOLD))
        await asyncio.sleep(0.05)
        await initiator.close()
        with pytest.raises(ConnectionLost, match="logged out"):
            await task
        await initiator.close()

    run(play, test)


def test_no_one_listens() -> None:
    async def test() -> None:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port}: cannot connect"):
            await connect(port)

    asyncio.run(test())


def test_a_login_without_an_answer() -> None:
    async def play(actor: Actor) -> None:
        while True:
            await actor.receive()

    async def test(port: int) -> None:
        with pytest.raises(ConnectError, match=r"no login within 0\.05 s"):
            await connect(port, timeout=0.05)

    run(play, test, login=False)


def test_a_connection_that_goes_during_login() -> None:
    async def play(actor: Actor) -> None:
        await actor.receive()

    async def test(port: int) -> None:
        with pytest.raises(ConnectError, match="closed the connection during login"):
            await connect(port)

    run(play, test, login=False)


@pytest.mark.parametrize(
    "answer",
    [
        LoginResponse(0, ISID, 0, 0, 1, True, b"no pair", 0, 0, 1, 4),
        LoginResponse(0, ISID, 0, 0, 1, True, b"", 0x0203, 0, 1, 4),
        NopIn(NO_TAG, 1, 1, 1, 4),
    ],
)
def test_logins_that_end_in_an_error(answer: ResponsePdu) -> None:
    async def play(actor: Actor) -> None:
        await actor.receive()
        actor.send(answer)
        await actor.receive()

    async def test(port: int) -> None:
        with pytest.raises(LoginError):
            await connect(port)

    run(play, test, login=False)


def test_arguments_are_checked() -> None:
    async def test() -> None:
        with pytest.raises(IscsiNameError):
            await IscsiInitiator.connect("h", 1, "disk", INITIATOR, ISID)
        with pytest.raises(IscsiNameError):
            await IscsiInitiator.connect("h", 1, TARGET, "me", ISID)
        with pytest.raises(ValueError, match="an ISID has 6 bytes, not 5"):
            await IscsiInitiator.connect("h", 1, TARGET, INITIATOR, ISID[1:])
        with pytest.raises(ValueError, match="belong together"):
            await IscsiInitiator.connect("h", 1, TARGET, INITIATOR, ISID, user="anna")

    asyncio.run(test())


def test_commands_that_cannot_be_sent() -> None:
    async def play(actor: Actor) -> None:
        actor.send(good(await actor.command()))
        await actor.receive()

    async def test(port: int) -> None:
        initiator = await connect(port)
        with pytest.raises(ValueError, match="logical unit number 16384"):
            await initiator.execute(16384, TEST_UNIT_READY)
        for cdb in (b"", bytes(261)):
            with pytest.raises(ValueError, match="CDB"):
                await initiator.execute(0, Command(cdb))
        assert await initiator.execute(0, write(0, b"")) == Response(Status.GOOD)

    run(play, test)
