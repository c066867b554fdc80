from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
import uvloop

from holdover.helper.listener import Listener
from holdover.helper.server import HelperServer, Peer
from holdover.scsi.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.sense import AdditionalSense, decode_sense
from holdover.scsi.status import Status
from tests.helper.client import HelperClient, Reply
from tests.helper.serving import Recorder, open_descriptors, serving, settled_descriptors

T = TypeVar("T")

READ_KEYS = PersistentReserveIn(InServiceAction.READ_KEYS, 64).encode()
REGISTER = PersistentReserveOut(OutServiceAction.REGISTER, 24).encode()
NO_SENSE = bytes(96)
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(params=LOOPS, ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=request.param) as one:
        yield one


@pytest.fixture
def device(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "device", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "helper.sock"


async def client(path: Path, work: Callable[[HelperClient], T]) -> T:
    """`work` with a client of its own, in a thread."""

    def whole() -> T:
        with HelperClient(path) as one:
            return work(one)

    return await asyncio.to_thread(whole)


def test_commands_reach_the_handler_and_answers_the_client(
    runner: asyncio.Runner, path: Path, device: int
) -> None:
    recorder = Recorder()

    def work(one: HelperClient) -> None:
        assert one.run(device, READ_KEYS) == Reply(0, b"data", NO_SENSE)
        assert one.run(device, REGISTER, bytes(range(24))) == Reply(0, b"", NO_SENSE)

    async def main() -> None:
        async with serving(path, recorder.handle):
            await client(path, work)

    before = open_descriptors()
    runner.run(main())
    assert open_descriptors() <= before + 3, "the loop's own"
    peer = Peer(os.getpid(), os.getuid(), os.getgid())
    inode = (os.fstat(device).st_dev, os.fstat(device).st_ino)
    assert recorder.seen == [
        (peer, Command(READ_KEYS.ljust(16, b"\0"), data_in_length=64), inode),
        (peer, Command(REGISTER.ljust(16, b"\0"), bytes(range(24))), inode),
    ]
    assert not path.exists()


def test_every_descriptor_is_closed_once(runner: asyncio.Runner, path: Path, device: int) -> None:
    async def main() -> None:
        async with serving(path, Recorder().handle) as server:
            before = open_descriptors()
            await client(path, lambda one: [one.run(device, READ_KEYS) for _ in range(50)])
            await asyncio.to_thread(hang_up_within_a_command)
            assert await settled_descriptors(before) == before
            assert server.connections == 0

    def hang_up_within_a_command() -> None:
        one = HelperClient(path)
        one.send(READ_KEYS[:8], [device])
        one.close()

    runner.run(main())


def test_a_device_that_is_open_for_reading_alone_is_not_reserved(
    runner: asyncio.Runner, path: Path, tmp_path: Path, device: int
) -> None:
    recorder = Recorder()

    def work(one: HelperClient) -> None:
        descriptor = os.open(tmp_path / "device", os.O_RDONLY)
        refused = one.run(descriptor, REGISTER, bytes(24))
        assert refused.status == Status.CHECK_CONDITION
        assert decode_sense(refused.sense).additional == AdditionalSense.INVALID_COMMAND_OPERATION_CODE
        assert one.run(descriptor, READ_KEYS).status == 0
        os.close(descriptor)

    async def main() -> None:
        async with serving(path, recorder.handle):
            await client(path, work)

    runner.run(main())
    assert [command.opcode for _, command, _ in recorder.seen] == [0x5E]


def test_a_client_that_breaks_the_protocol_is_disconnected_and_others_do_not_notice(
    runner: asyncio.Runner, path: Path, device: int
) -> None:
    def work(good: HelperClient) -> None:
        assert good.run(device, READ_KEYS).status == 0
        with HelperClient(path) as bad:
            bad.send(b"\x12".ljust(16, b"\0"), [device])
            with pytest.raises(ConnectionResetError):
                bad.reply()
        with HelperClient(path) as bad:
            bad.send(READ_KEYS.ljust(16, b"\0"), [device] * 40)
            with pytest.raises(ConnectionResetError):
                bad.reply()
        assert good.run(device, READ_KEYS).status == 0

    async def main() -> None:
        async with serving(path, Recorder().handle):
            before = open_descriptors()
            await client(path, work)
            assert await settled_descriptors(before) == before

    runner.run(main())


def test_half_a_command_and_silence_ends_the_connection(
    runner: asyncio.Runner, path: Path, device: int
) -> None:
    def work(idle: HelperClient) -> None:
        with HelperClient(path) as half, HelperClient(path, greet=False) as mute:
            # its own end goes along: without a limit this connection would never end
            half.send(READ_KEYS[:8], [half.socket.fileno()])
            for each in (half, mute):
                with pytest.raises(ConnectionResetError):
                    each.reply()
        assert idle.run(device, READ_KEYS).status == 0, "silence between commands is as good as any"

    async def main() -> None:
        async with serving(path, Recorder().handle, silence=0.1):
            await client(path, work)

    runner.run(main())


def test_a_handler_that_fails_is_an_error_of_the_device(
    runner: asyncio.Runner, path: Path, device: int
) -> None:
    async def handle(peer: Peer, descriptor: int, command: Command) -> Response:
        raise LookupError("a mistake")

    async def main() -> None:
        async with serving(path, handle):
            reply = await client(path, lambda one: one.run(device, READ_KEYS))
            assert reply.status == Status.CHECK_CONDITION
            assert decode_sense(reply.sense).additional == AdditionalSense.INTERNAL_TARGET_FAILURE

    runner.run(main())


def test_what_is_sent_ahead_waits_its_turn(runner: asyncio.Runner, path: Path, device: int) -> None:
    recorder = Recorder()

    def work(one: HelperClient) -> None:
        for _ in range(20):
            one.send(REGISTER.ljust(16, b"\0") + bytes(24), [device])
        one.socket.shutdown(socket.SHUT_WR)
        assert [one.reply().status for _ in range(20)] == [0] * 20

    async def main() -> None:
        async with serving(path, recorder.handle):
            await client(path, work)

    runner.run(main())
    assert len(recorder.seen) == 20
    assert recorder.most == 1, "one command at a time on a connection"


def test_a_client_that_does_not_read_is_waited_for(runner: asyncio.Runner, path: Path, device: int) -> None:
    commands = 60  # their answers are more than a socket holds, the commands are not

    def work(one: HelperClient) -> None:
        cdb = PersistentReserveIn(InServiceAction.READ_KEYS, 8192).encode()
        for _ in range(commands):
            one.send(cdb.ljust(16, b"\0"), [device])
        for _ in range(commands):
            assert one.reply() == Reply(0, bytes(range(256)) * 32, NO_SENSE)

    async def main() -> None:
        async with serving(path, Recorder(bytes(range(256)) * 32).handle):
            await client(path, work)

    runner.run(main())


def test_a_thousand_connections_are_served_at_once(runner: asyncio.Runner, path: Path, device: int) -> None:
    count = 1000
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * count:
        pytest.skip(f"may open no more than {hard} files")
    everybody = asyncio.Event()
    waiting = 0

    async def handle(peer: Peer, descriptor: int, command: Command) -> Response:
        nonlocal waiting
        waiting += 1
        if waiting == count:
            everybody.set()
        await everybody.wait()
        return Response(Status.GOOD, b"data")

    def work() -> None:
        clients = [HelperClient(path) for _ in range(count)]
        for each in clients:
            each.send(READ_KEYS.ljust(16, b"\0"), [device])
        for each in clients:
            assert each.reply() == Reply(0, b"data", NO_SENSE)
            each.close()

    async def main() -> None:
        async with serving(path, handle) as server:
            await asyncio.to_thread(work)
            assert server.connections <= count

    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        runner.run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_that_cannot_be_taken_now_are_taken_later(
    runner: asyncio.Runner, path: Path, device: int
) -> None:
    def work(held: list[int]) -> None:
        one = HelperClient(path, greet=False)
        for descriptor in held:
            os.close(descriptor)
        assert one.socket.recv(4) == bytes(4)
        one.close()

    async def main() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        async with serving(path, Recorder().handle):
            await asyncio.to_thread(open_descriptors)  # the thread is there before the limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 20, hard))
            held: list[int] = []
            try:
                while True:
                    held.append(os.dup(device))
            except OSError:
                os.close(held.pop())  # one for the client
            try:
                await asyncio.to_thread(work, held)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    runner.run(main())


def test_closing_lets_the_command_under_way_end(runner: asyncio.Runner, path: Path, device: int) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def handle(peer: Peer, descriptor: int, command: Command) -> Response:
        begun.set()
        await go_on.wait()
        return Response(Status.GOOD, b"data")

    async def main() -> None:
        async with serving(path, handle) as server:
            idle = await asyncio.to_thread(HelperClient, path)
            busy = asyncio.ensure_future(client(path, lambda one: one.run(device, READ_KEYS)))
            await begun.wait()
            closing = asyncio.ensure_future(server.close())
            await asyncio.sleep(0)
            with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
                await asyncio.to_thread(HelperClient, path)
            go_on.set()
            await closing
            assert (await busy).payload == b"data"
            assert idle.socket.recv(1) == b""
            idle.close()

    runner.run(main())


def test_closing_gives_up_a_command_that_does_not_end(
    runner: asyncio.Runner, path: Path, device: int
) -> None:
    cancelled = []
    begun = asyncio.Event()

    async def handle(peer: Peer, descriptor: int, command: Command) -> Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(os.fstat(descriptor).st_ino)
        return Response(Status.GOOD)

    def work(one: HelperClient) -> None:
        with pytest.raises(ConnectionResetError):
            one.run(device, READ_KEYS)

    async def main() -> None:
        before = open_descriptors()
        async with serving(path, handle) as server:
            hanging = asyncio.ensure_future(client(path, work))
            await begun.wait()
            await server.close(limit=0)
            await hanging
        assert await settled_descriptors(before) == before

    runner.run(main())
    assert cancelled == [os.fstat(device).st_ino]


def test_a_server_that_never_served_closes() -> None:
    async def main() -> None:
        here, there = socket.socketpair()
        await HelperServer(Listener(here), Recorder().handle).close()
        there.close()

    asyncio.run(main())
