from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from holdover.helper.clients import Clients
from holdover.helper.connection import Peer
from holdover.helper.listener import Listener, listen
from holdover.helper.server import HelperServer
from holdover.paths.sgio import OpenDevice
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, decode_sense
from holdover.scsi.status import Status
from tests.helper.client import HelperClient, Reply
from tests.helper.serving import Recorder, open_descriptors, plenty, serving, settled_descriptors

READ_KEYS = PersistentReserveIn(InServiceAction.READ_KEYS, 64).encode()
REGISTER = PersistentReserveOut(OutServiceAction.REGISTER, 24).encode()
NO_SENSE = bytes(96)
PATIENCE = 600.0


class Gate:
    """A handler whose commands wait until it is opened: those on the devices in `hanging`, or all."""

    def __init__(self, *hanging: int) -> None:
        self.hanging = set(hanging)
        self.open = threading.Event()
        self.waiting = threading.Semaphore(0)
        self.carried_out: list[int] = []

    def handle(self, peer: Peer, device: OpenDevice, command: Command) -> Response:
        if not self.hanging or device.found.st_rdev in self.hanging:
            self.waiting.release()
            assert self.open.wait(PATIENCE)
        self.carried_out.append(device.found.st_rdev)
        return Response(Status.GOOD, b"data")

    def await_waiting(self, count: int) -> None:
        for _ in range(count):
            assert self.waiting.acquire(timeout=PATIENCE)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "device", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "helper.sock"


@pytest.fixture
def _many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def send(one: HelperClient, descriptor: int, cdb: bytes = READ_KEYS) -> None:
    one.send(cdb.ljust(16, b"\0"), [descriptor])


def is_hung_up(one: HelperClient) -> bool:
    with pytest.raises(ConnectionResetError):
        one.reply()
    return True


def test_commands_reach_the_handler_and_answers_the_client(path: Path, device: int) -> None:
    recorder = Recorder()
    before = open_descriptors()
    with serving(path, recorder.handle), HelperClient(path) as one:
        assert one.run(device, READ_KEYS) == Reply(0, b"data", NO_SENSE)
        assert one.run(device, REGISTER, bytes(range(24))) == Reply(0, b"", NO_SENSE)
    assert open_descriptors() == before
    peer = Peer(os.getpid(), os.getuid(), os.getgid())
    inode = (os.fstat(device).st_dev, os.fstat(device).st_ino)
    assert recorder.seen == [
        (peer, Command(READ_KEYS.ljust(16, b"\0"), data_in_length=64), inode),
        (peer, Command(REGISTER.ljust(16, b"\0"), bytes(range(24))), inode),
    ]
    assert not path.exists()


def test_whoever_connects_is_told_of_before_it_sends_anything(path: Path) -> None:
    told: list[Peer] = []
    server = HelperServer(listen(path), Recorder().handle, plenty(), welcome=told.append)
    server.start()
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    with HelperClient(path), HelperClient(path):
        peer = Peer(os.getpid(), os.getuid(), os.getgid())
        while len(told) < 2:
            threading.Event().wait(0.01)
        assert told == [peer, peer]
        assert server.peers == (peer, peer)
        assert before <= told[0].since <= told[1].since <= time.clock_gettime(time.CLOCK_BOOTTIME)
    server.close()


def test_a_client_that_was_silent_is_served_as_before(path: Path, device: int) -> None:
    with serving(path, Recorder().handle) as server, HelperClient(path) as one:
        for _ in range(3):
            assert one.run(device, READ_KEYS).payload == b"data"
            while server.talking:  # until the client is the poller's again
                threading.Event().wait(0.01)


def test_every_descriptor_is_closed_once(path: Path, device: int) -> None:
    with serving(path, Recorder().handle) as server:
        before = open_descriptors()
        with HelperClient(path) as one:
            for _ in range(50):
                one.run(device, READ_KEYS)
        with HelperClient(path) as half:
            half.send(READ_KEYS[:8], [device])
        assert settled_descriptors(before) == before
        assert server.connections == 0


def test_a_device_that_is_open_for_reading_alone_is_not_reserved(
    path: Path, tmp_path: Path, device: int
) -> None:
    recorder = Recorder()
    descriptor = os.open(tmp_path / "device", os.O_RDONLY)
    with serving(path, recorder.handle), HelperClient(path) as one:
        refused = one.run(descriptor, REGISTER, bytes(24))
        assert refused.status == Status.CHECK_CONDITION
        assert decode_sense(refused.sense).additional == AdditionalSense.INVALID_COMMAND_OPERATION_CODE
        assert one.run(descriptor, READ_KEYS).status == 0
    os.close(descriptor)
    assert [command.opcode for _, command, _ in recorder.seen] == [0x5E]


def test_a_client_that_breaks_the_protocol_is_disconnected_and_others_do_not_notice(
    path: Path, device: int
) -> None:
    with serving(path, Recorder().handle), HelperClient(path) as good:
        before = open_descriptors()
        assert good.run(device, READ_KEYS).status == 0
        with HelperClient(path) as bad:
            send(bad, device, b"\x12")
            assert is_hung_up(bad)
        with HelperClient(path) as bad:
            bad.send(READ_KEYS.ljust(16, b"\0"), [device] * 40)
            assert is_hung_up(bad)
        assert good.run(device, READ_KEYS).status == 0
        assert settled_descriptors(before) == before


def test_half_a_command_and_silence_ends_the_connection(path: Path, device: int) -> None:
    with (
        serving(path, Recorder().handle, silence=0.1),
        HelperClient(path) as idle,
        HelperClient(path) as half,
        HelperClient(path, greet=False) as mute,
    ):
        # its own end goes along: without a limit this connection would never end
        half.send(READ_KEYS[:8], [half.socket.fileno()])
        assert is_hung_up(half)
        assert mute.socket.recv(4) == bytes(4)
        assert is_hung_up(mute)
        assert idle.run(device, READ_KEYS).status == 0, "silence between commands is as good as any"


def test_a_command_that_drips_in_does_not_keep_a_thread(path: Path, device: int) -> None:
    with serving(path, Recorder().handle, silence=0.2), HelperClient(path) as slow:
        cdb = PersistentReserveOut(OutServiceAction.REGISTER, 8192).encode()
        send(slow, device, cdb)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            drip(slow, 8192)


def drip(one: HelperClient, length: int) -> None:
    for _ in range(length):
        one.send(b"\0")
        threading.Event().wait(0.002)


def test_a_handler_that_fails_is_an_error_of_the_device(path: Path, device: int) -> None:
    def handle(peer: Peer, device: OpenDevice, command: Command) -> Response:
        raise LookupError("a mistake")

    with serving(path, handle), HelperClient(path) as one:
        reply = one.run(device, READ_KEYS)
        assert reply.status == Status.CHECK_CONDITION
        assert decode_sense(reply.sense).additional == AdditionalSense.INTERNAL_TARGET_FAILURE
        assert one.run(device, READ_KEYS) == reply


def test_what_is_sent_ahead_waits_its_turn(path: Path, device: int) -> None:
    recorder = Recorder()
    with serving(path, recorder.handle), HelperClient(path) as one:
        for _ in range(20):
            one.send(REGISTER.ljust(16, b"\0") + bytes(24), [device])
        one.socket.shutdown(socket.SHUT_WR)
        assert [one.reply().status for _ in range(20)] == [0] * 20
    assert len(recorder.seen) == 20
    assert recorder.most == 1, "one command at a time on a connection"


def test_a_client_that_does_not_read_is_waited_for(path: Path, device: int) -> None:
    commands = 60  # their answers are more than a socket holds, the commands are not
    data = bytes(range(256)) * 32
    cdb = PersistentReserveIn(InServiceAction.READ_KEYS, 8192).encode()
    with serving(path, Recorder(data).handle) as server, HelperClient(path) as one:
        for _ in range(commands):
            send(one, device, cdb)
        while server.talking:  # no thread waits for it
            threading.Event().wait(0.01)
        for _ in range(commands):
            assert one.reply() == Reply(0, data, NO_SENSE)


@pytest.mark.usefixtures("_many_descriptors")
def test_a_thousand_connections_are_served_at_once(path: Path, device: int) -> None:
    count = 1000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 4 * count:
        pytest.skip("may not open enough files")
    gate = Gate()
    with serving(path, gate.handle, turns=count) as server, ExitStack() as stack:
        clients = [stack.enter_context(HelperClient(path)) for _ in range(count)]
        for each in clients:
            send(each, device)
        gate.await_waiting(count)
        assert server.connections == count
        gate.open.set()
        for each in clients:
            assert each.reply() == Reply(0, b"data", NO_SENSE)


def test_a_device_that_hangs_holds_up_nobody_else(path: Path) -> None:
    turns, others = 4, 200
    null, zero = os.open("/dev/null", os.O_RDWR), os.open("/dev/zero", os.O_RDWR)
    gate = Gate(os.fstat(null).st_rdev)
    before = set(threading.enumerate())
    with serving(path, gate.handle, turns=turns), ExitStack() as stack:
        hanging = [stack.enter_context(HelperClient(path)) for _ in range(turns + others)]
        for each in hanging:
            send(each, null)
        gate.await_waiting(turns)
        with HelperClient(path) as other:
            for _ in range(100):
                assert other.run(zero, READ_KEYS).payload == b"data"
        assert not gate.waiting.acquire(timeout=0.2), "no more at once than the device has turns"
        assert len(set(threading.enumerate()) - before) < 100, "those who wait for a turn have no thread"
        gate.open.set()
        for each in hanging:
            assert each.reply() == Reply(0, b"data", NO_SENSE)
        for each in hanging:
            assert each.run(null, READ_KEYS).status == 0
    os.close(null)
    os.close(zero)


def test_those_who_wait_for_a_device_are_served_in_order(path: Path, device: int) -> None:
    gate, order = Gate(), []

    def handle(peer: Peer, device: OpenDevice, command: Command) -> Response:
        order.append(command.data_in_length)
        return gate.handle(peer, device, command)

    with serving(path, handle, turns=1), ExitStack() as stack:
        clients = [stack.enter_context(HelperClient(path)) for _ in range(6)]
        for number, each in enumerate(clients):
            send(each, device, PersistentReserveIn(InServiceAction.READ_KEYS, number).encode())
            if number == 0:
                gate.await_waiting(1)
            else:
                threading.Event().wait(0.05)  # it has come to its queue before the next one
        gate.open.set()
        for each in clients:
            assert each.reply().status == 0
    assert order == [0, 1, 2, 3, 4, 5]


def test_connections_that_cannot_be_taken_now_are_taken_later(path: Path, device: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with serving(path, Recorder().handle):
        resource.setrlimit(resource.RLIMIT_NOFILE, (open_descriptors() + 20, hard))
        held: list[int] = []
        try:
            while True:
                held.append(os.dup(device))
        except OSError:
            os.close(held.pop())  # one for the client
        try:
            with HelperClient(path, greet=False) as one:
                threading.Event().wait(0.05)
                for descriptor in held:
                    os.close(descriptor)
                assert one.socket.recv(4) == bytes(4)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_closing_lets_the_command_under_way_end(path: Path, device: int) -> None:
    gate = Gate()
    with (
        ThreadPoolExecutor() as threads,
        serving(path, gate.handle) as server,
        HelperClient(path) as idle,
        HelperClient(path) as busy,
    ):
        send(busy, device)
        gate.await_waiting(1)
        closing = threads.submit(server.close, 20)
        assert idle.socket.recv(1) == b""
        with pytest.raises((FileNotFoundError, ConnectionRefusedError)):
            HelperClient(path)
        gate.open.set()
        closing.result(PATIENCE)
        assert busy.reply().payload == b"data"
        assert is_hung_up(busy)


def test_closing_gives_up_a_command_that_does_not_end(path: Path, device: int) -> None:
    gate = Gate()
    before = open_descriptors()
    with serving(path, gate.handle, turns=1) as server, ExitStack() as stack:
        clients = [stack.enter_context(HelperClient(path)) for _ in range(3)]
        for each in clients:
            send(each, device)
        gate.await_waiting(1)
        server.close(limit=0)
        assert all(is_hung_up(each) for each in clients)
        gate.open.set()
    assert settled_descriptors(before) == before
    assert len(gate.carried_out) == 1, "what waited for its turn is not begun any more"


def test_a_server_that_never_served_closes() -> None:
    before = open_descriptors()
    here, there = socket.socketpair()
    HelperServer(Listener(here), Recorder().handle, plenty()).close()
    there.close()
    assert open_descriptors() == before


def test_a_client_gives_its_place_to_one_at_another_socket(tmp_path: Path) -> None:
    clients = Clients(8)  # of which a quarter may be strangers, and half of these one user's
    paths = tmp_path / "one.sock", tmp_path / "two.sock"
    servers = [HelperServer(listen(path), Recorder().handle, clients) for path in paths]
    for server in servers:
        server.start()
    try:
        with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
            for client, path in zip((first, second), paths, strict=True):
                client.settimeout(600)
                client.connect(str(path))
                assert client.recv(4)
            assert first.recv(4) == b""
    finally:
        for server in servers:
            server.close()
