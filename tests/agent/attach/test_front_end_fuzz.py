"""Clients that break the helper's protocol in every way, at an agent's sockets, beside a guest's QEMU.

The guest's disk is played by /dev/zero, its LUN is one in memory. What the others send are no SCSI devices,
and go as far as the look at what they are.
"""

from __future__ import annotations

import asyncio
import functools
import os
from pathlib import Path

import pytest

from holdover.agent import host as host_module
from holdover.agent.attach import front_end as front_end_module
from holdover.agent.attach import helper_sockets as sockets_module
from holdover.agent.attach import refusals
from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig, GuestConfig, HelperConfig
from holdover.helper.server import HelperServer
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.inquiry import Designator
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.status import Status
from tests.helper.client import HelperClient
from tests.helper.fuzz import Good, besiege, quiet, settle
from tests.helper.serving import open_descriptors, plenty, settled_descriptors
from tests.paths.local_path import LocalPath
from tests.rig.amounts import amount

CASES = amount(4_000, 24_000)

ZERO = os.stat("/dev/zero").st_rdev
NEXUS = ITNexus(IscsiTransportID("iqn.2026-11.org.example:h", bytes(6)))
READ_KEYS = in_command(InServiceAction.READ_KEYS, 64).cdb
SOCKETS = ("the guest's", "another guest's", "all guests'")


def agent(folder: Path) -> AgentConfig:
    """An agent with a guest whose disk its file names, one whose disks come as descriptors, and others."""
    guests = (
        GuestConfig(
            name="db1",
            machine_type="pc-q35-7.2",
            devices=("scsi-block,id=disk0,drive=/dev/zero,migrate-pr=on",),
            helper=str(folder / SOCKETS[0]),
        ),
        GuestConfig(name="db2", machine_type="pc-q35-7.2", devices=(), helper=str(folder / SOCKETS[1])),
    )
    return AgentConfig(
        name="h",
        initiator="iqn.2026-11.org.example:h",
        state_dir=str(folder / "state"),
        guest=guests,
        helper=HelperConfig(socket=str(folder / SOCKETS[2])),
    )


class ZeroPath(LocalPath):
    """A disk of this host, which is open."""

    def has_open(self, number: tuple[int, int]) -> bool:
        return number[1] == ZERO


@pytest.fixture
def inline() -> list[None]:
    """One for each command that a thread of the helper's carried out itself."""
    return []


@pytest.fixture
def lun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: list[None]) -> EmbeddedLun:
    """The LUN that the agent takes /dev/zero for; silent clients are thrown out soon."""
    loops: list[asyncio.AbstractEventLoop] = []
    file = tmp_path / "disk"
    lun = EmbeddedLun.open(LunOptions(file=file, size=1 << 20))
    ask = HostDisks.designator_of

    async def designator_of(self: HostDisks, device: OpenDevice, name: str = "descriptor") -> Designator:
        if device.found.st_rdev == ZERO:
            return lun.designator
        return await ask(self, device, name)

    async def execute(command: Command) -> Response:
        return await lun.execute(NEXUS, command)

    def open_path(*_: object, **__: object) -> ZeroPath:
        loops.append(asyncio.get_running_loop())
        return ZeroPath(lun, NEXUS, "/dev/zero")

    def carry_out(device: OpenDevice, command: Command, name: str, timeout: float) -> Response:
        assert device.found.st_rdev == ZERO
        assert os.fstat(device.descriptor).st_rdev == ZERO
        inline.append(None)
        return asyncio.run_coroutine_threadsafe(execute(command), loops[-1]).result()

    monkeypatch.setattr(HostDisks, "designator_of", designator_of)
    monkeypatch.setattr(host_module, "open_path", open_path)
    monkeypatch.setattr(front_end_module, "carry_out", carry_out)
    monkeypatch.setattr(OpenDevice, "is_disk", property(lambda self: self.found.st_rdev == ZERO))
    monkeypatch.setattr(sockets_module, "HelperServer", functools.partial(HelperServer, silence=1.0))
    # one process is all these clients
    monkeypatch.setattr(host_module, "Clients", lambda _: plenty())
    monkeypatch.setattr(refusals, "_ANSWER_SECONDS", 0.0)
    return lun


def say_hello(socket: Path, descriptor: int) -> None:
    with HelperClient(socket) as one:
        one.run(descriptor, READ_KEYS)


@pytest.mark.parametrize("socket", SOCKETS)
def test_clients_that_break_the_protocol_harm_no_guest(
    tmp_path: Path, lun: EmbeddedLun, inline: list[None], socket: str
) -> None:
    zero = os.open("/dev/zero", os.O_RDWR)
    action = OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY

    def work(one: HelperClient, number: int) -> None:
        """A key of its own each time: nobody else's command may come between."""
        register = out_command(action, 0, number + 1)
        assert one.run(zero, register.cdb, register.data_out).status == Status.GOOD
        reply = one.run(zero, READ_KEYS)
        assert reply.status == Status.GOOD
        assert ReadKeys.decode(reply.payload).keys == (number + 1,)

    async def main() -> None:
        host = Host(agent(tmp_path))
        await host.start()
        await lun.execute(NEXUS, in_command(InServiceAction.READ_KEYS))  # it has been powered on
        # who the guests' processes are is known from now on, and watched
        for each in SOCKETS:
            await asyncio.to_thread(say_hello, tmp_path / each, zero)
        while any(each.connections for each, _ in host.helpers._servers.values()):  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0.01)
        before = open_descriptors()
        good = Good(tmp_path / SOCKETS[0], work)
        cases = CASES // len(SOCKETS)
        nasty = await asyncio.to_thread(besiege, tmp_path / socket, tmp_path, 1, cases, good)
        assert good.served > cases // 100
        assert len(inline) > good.served // 2, "the guest's reads are carried out inline"
        assert set(nasty.answers) == {Status.CHECK_CONDITION}
        assert nasty.answers[Status.CHECK_CONDITION] > cases // 10
        server, _ = host.helpers._servers[str(tmp_path / socket)]
        await asyncio.to_thread(settle, server, nasty)
        assert await asyncio.to_thread(settled_descriptors, before) == before
        await host.close()

    with quiet():
        asyncio.run(main())
    os.close(zero)
