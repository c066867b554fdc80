"""`python -m bench.data_path`: the processor time of a command's way through Python, without sockets.

The connections are real and the transports are memory. So nothing but Holdover's own code is measured: a
guest's command at an agent's export, on to the target and back (gateway), and a command at Holdover's own
target. The best of many rounds is what other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.table import Table

from bench.machine import wide_console
from holdover.agent.guests.device import GuestDevice
from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.iscsi.header import Buffer
from holdover.iscsi.initiator.initiator import IscsiInitiator, _Connection
from holdover.iscsi.initiator.login import InitiatorConfig
from holdover.iscsi.initiator.session import InitiatorSession
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.connection import TargetConnection
from holdover.iscsi.target.events import CommandReceived, LoginCompleted
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.iscsi.target.target import IscsiTarget
from holdover.iscsi.url import IscsiUrl
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.network.receive_buffer import receive_buffer
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions
from holdover.scsi.cdbs.cdb import Read, Write
from holdover.scsi.command import Command, DeviceServer, Response
from holdover.scsi.status import Status

_IQN, _NAME, _ISID = "iqn.2026-11.org.holdover:path", "iqn.2026-11.org.holdover:guest", b"\x80\0\0\0\0\1"
_SIZE = 64 << 20


class _Memory:
    """A transport that keeps what it is given to send."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def take(self) -> bytes:
        sent, self.sent = b"".join(self.sent), []
        return sent

    def writelines(self, buffers: list[Buffer]) -> None:
        self.sent += [bytes(each) for each in buffers]

    def get_extra_info(self, _: str) -> tuple[str, int]:
        return ("127.0.0.1", 3260)

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def abort(self) -> None:
        pass

    close = abort


class _Wire:
    """Gives bytes to a connection as the event loop does, and adds up the time that it takes them."""

    def __init__(self, connection: asyncio.BufferedProtocol, transport: _Memory) -> None:
        self.connection = connection
        self.transport = transport
        self.seconds = 0.0
        connection.connection_made(cast(Any, transport))

    def give(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            buffer = memoryview(cast(Any, self.connection.get_buffer(-1)))
            piece = data[at : at + len(buffer)]
            buffer[: len(piece)] = piece
            began = time.perf_counter()
            self.connection.buffer_updated(len(piece))
            self.seconds += time.perf_counter() - began
            at += len(piece)


class _Array:
    """A target that answers each command at once, out of the measured time."""

    def __init__(self) -> None:
        config = TargetConfig(_IQN, None, None, limits=NegotiationLimits(), budget=ByteBudget(1 << 30))
        self.session = TargetSession(config, ("127.0.0.1:3260",), secrets.token_bytes)

    def answer(self, data: bytes) -> bytes:
        self.session.receive_data(data)
        for event in self.session.events_received():
            if isinstance(event, LoginCompleted):
                self.session.admit(1)
            elif isinstance(event, CommandReceived):
                self.session.respond(event.tag, Response(Status.GOOD, bytes(event.command.data_in_length)))
        return b"".join(self.session.data_to_send())


class _Guest:
    """An initiator that sends commands, out of the measured time."""

    def __init__(self) -> None:
        config = InitiatorConfig(_NAME, _ISID, _IQN, limits=NegotiationLimits())
        self.session = InitiatorSession(config, secrets.token_bytes)

    def send(self, command: Command, depth: int) -> bytes:
        for _ in range(depth):
            self.session.execute(0, command)
        return self.take()

    def take(self) -> bytes:
        return b"".join(self.session.data_to_send())

    def receive(self, data: bytes) -> int:
        """The number of commands that have ended well."""
        self.session.receive_data(data)
        responses = [getattr(event, "response", None) for event in self.session.events_received()]
        return sum(response is not None and response.good for response in responses)


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of command, with the number that comes at once."""

    name: str
    command: Command
    depth: int

    @property
    def rounds(self) -> int:
        """How often the load is repeated for a figure: less often if a round takes long."""
        return max(20, 2000 // self.depth) if len(self.command.data_out) < 65536 else 40


def loads() -> list[Load]:
    """The loads of `bench.gateway`."""
    kinds = (("4 KiB", 8, (1, 32)), ("256 KiB", 512, (16,)))
    return [
        Load(f"{name} {size}, {depth} in flight", command, depth)
        for size, blocks, depths in kinds
        for name, command in (
            ("read", Command(Read(8, blocks, 10).encode(), b"", blocks * 512)),
            ("write", Command(Write(8, blocks, 10).encode(), bytes(blocks * 512), 0)),
        )
        for depth in depths
    ]


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def _admitted(target: IscsiTarget, guest: _Guest) -> _Wire:
    """The connection of a guest that has logged in."""
    loop = asyncio.get_running_loop()
    transport = _Memory()
    wire = _Wire(TargetConnection(target, "", receive_buffer(loop), 60, None, loop), transport)
    guest_sends = guest.take()
    while guest_sends:
        wire.give(guest_sends)
        await _settle()
        guest.receive(transport.take())
        guest_sends = guest.take()
    return wire


async def gateway(load: Load) -> float:
    """The microseconds that a command takes in an agent."""
    sessions = IscsiSessions()
    path = sessions.path(IscsiUrl("127.0.0.1", 3260, _IQN, 0), InitiatorIdentity(_NAME, _ISID))
    array = _Array()
    config = InitiatorConfig(_NAME, _ISID, _IQN, limits=NegotiationLimits())
    session = InitiatorSession(config, secrets.token_bytes)
    initiator = IscsiInitiator(session, "127.0.0.1:3260", None)
    far_transport = _Memory()
    far = _Wire(_Connection(initiator), far_transport)
    while sent := far_transport.take():
        far.give(array.answer(sent))
    path._session._initiator = initiator
    block = ScsiBlock(DeviceOptions("disk0", "memory", True), MachineType.parse("q35"), Gate.RUNNING)
    device = GuestDevice(block, "disk0", lambda _: path)

    async def exchange(near: _Wire, sent: bytes) -> bytes:
        near.give(sent)
        while asked := far_transport.take():
            far.give(array.answer(asked))
        return near.transport.take()

    return await _measure(device, load, exchange, far)


async def own_target(load: Load) -> float:
    """The microseconds that a command takes in Holdover's own target, with the system calls on the file."""
    with tempfile.TemporaryDirectory() as folder:
        lun = EmbeddedLun.open(LunOptions(Path(folder) / "disk", _SIZE))

        async def exchange(near: _Wire, sent: bytes) -> bytes:
            near.give(sent)
            return near.transport.take()

        try:
            return await _measure(lun, load, exchange, None)
        finally:
            await lun.close()


async def _measure(
    device: DeviceServer,
    load: Load,
    exchange: Callable[[_Wire, bytes], Coroutine[Any, Any, bytes]],
    far: _Wire | None,
) -> float:
    target = IscsiTarget(_IQN, {0: device}, ping_interval=None)
    await target.start("127.0.0.1", 0)
    guest = _Guest()
    near = await _admitted(target, guest)
    guest.receive(await exchange(near, guest.send(Command(bytes(6)), 1)))  # a unit attention, maybe
    best = float("inf")
    wires = [near] if far is None else [near, far]
    for _ in range(load.rounds):
        for wire in wires:
            wire.seconds = 0.0
        ended, sent = 0, guest.send(load.command, load.depth)
        while sent:
            ended += guest.receive(await exchange(near, sent))
            sent = guest.take()
        if ended != load.depth:
            raise RuntimeError(f"{ended} of {load.depth} commands ended well")
        best = min(best, sum(wire.seconds for wire in wires))
    await target.close()
    return 1e6 * best / load.depth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    table = Table(box=None, pad_edge=False)
    for heading in ("LOAD", "GATEWAY us", "TARGET us"):
        table.add_column(heading, justify="left" if heading == "LOAD" else "right")
    for load in loads():
        figures = [asyncio.run(way(load)) for way in (gateway, own_target)]
        table.add_row(load.name, *(f"{figure:.1f}" for figure in figures))
    wide_console().print(table)


if __name__ == "__main__":
    main()
