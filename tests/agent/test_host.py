"""A host that starts: what its guests have on their LUNs is asked before it is believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from holdover.agent.config import AgentConfig, ApiConfig, GuestConfig, Limits
from holdover.agent.host import Host
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.guest.snoop import Tracked
from holdover.iscsi.target import IscsiTarget
from holdover.iscsi.url import parse_iscsi_url
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.paths.iscsi import Identity, IscsiPath, IscsiSessions, isid_of
from holdover.scsi.command import Command
from holdover.scsi.opcodes import OutServiceAction, ReservationType
from holdover.scsi.reservation_out import out_command
from holdover.scsi.sense import is_unit_attention

IQN = "iqn.2026-11.org.example:san"
EA = ReservationType.EXCLUSIVE_ACCESS


class San:
    """A target with one LUN, and initiators to whatever exports it."""

    def __init__(self, folder: Path) -> None:
        self.lun = EmbeddedLun.open(LunOptions(folder / "lun", 1 << 20))
        self.target = IscsiTarget(IQN, {0: self.lun})
        self.port = 0
        self.sessions = IscsiSessions()

    @property
    def url(self) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{IQN}/0"

    @asynccontextmanager
    async def host(self) -> AsyncGenerator[Host, None]:
        guest = GuestConfig(
            name="db1",
            machine="pc-q35-7.2",
            export="127.0.0.1:0",
            devices=(f"scsi-block,id=disk0,drive={self.url},migrate-pr=on",),
        )
        config = AgentConfig(
            name="host-a",
            initiator="iqn.2026-11.org.example:host-a",
            api=ApiConfig(listen="127.0.0.1:7101"),
            guest=(guest,),
            limits=Limits(connect=1, step=1, drain=1),
        )
        host = Host(config)
        await host.start()
        try:
            yield host
        finally:
            await host.close()

    async def tell(self, name: str, url: str, command: Command) -> None:
        path: IscsiPath = self.sessions.path(
            parse_iscsi_url(url), Identity(f"iqn.2026-11.org.example:{name}", isid_of(name))
        )
        response = await path.execute(command)
        while is_unit_attention(response):
            response = await path.execute(command)
        assert response.good
        await path.close()


@asynccontextmanager
async def san(folder: Path) -> AsyncGenerator[San, None]:
    opened = San(folder)
    opened.port = await opened.target.start("127.0.0.1", 0)
    try:
        yield opened
    finally:
        await opened.target.close()
        await opened.lun.close()


def state_of(host: Host) -> BlockState:
    return host.guests["db1"].devices[0].block.state()


def test_what_a_guest_registered_before_the_agent_was_started_is_found(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as opened:
            async with opened.host() as host:
                url = f"{host.guests['db1'].export}/0"
                await opened.tell("qemu", url, out_command(OutServiceAction.REGISTER, 0, 5, aptpl=True))
                await opened.tell("qemu", url, out_command(OutServiceAction.RESERVE, 5, type=EA))
                assert state_of(host) == BlockState(True, Gate.RUNNING, Tracked(5, True, EA), stale=False)
            async with opened.host() as host:
                assert state_of(host) == BlockState(True, Gate.RUNNING, Tracked(5, True, EA), stale=False)
            await opened.tell("third", opened.url, out_command(OutServiceAction.REGISTER, 0, 6, aptpl=True))
            await opened.tell("third", opened.url, out_command(OutServiceAction.PREEMPT, 6, 5, type=EA))
            async with opened.host() as host:
                assert state_of(host) == BlockState(True, Gate.RUNNING, Tracked(), stale=False)

    asyncio.run(test())


def test_while_the_lun_is_away_nothing_is_believed(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as opened:
            await opened.target.close()
            async with opened.host() as host:
                assert state_of(host) == BlockState(True, Gate.RUNNING, Tracked(), stale=True)

    asyncio.run(test())
