"""Discovery, several portals, IPv6."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from holdover.iscsi.errors import ConnectError
from holdover.iscsi.initiator.initiator import IscsiInitiator, send_targets
from holdover.iscsi.target.target import IscsiTarget, SessionChange
from tests.iscsi.loopback import run, setting
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import BLOCK, RamDisk, read, write


def test_discovery_is_no_session_of_the_table() -> None:
    changes: list[SessionChange] = []

    async def test() -> None:
        async with setting(on_session=changes.append) as here:
            (found,) = await send_targets("127.0.0.1", here.port, initiator_name=INITIATOR, isid=ISID)
            assert (found.name, found.addresses) == (TARGET, (f"127.0.0.1:{here.port},1",))

    run(test)
    assert changes == []


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


def test_several_portals_make_one_target() -> None:
    async def test() -> None:
        disk = RamDisk()
        target = IscsiTarget(TARGET, {0: disk})
        ports = [await target.start("127.0.0.1", 0), await target.start("127.0.0.2", 0)]
        hosts = ["127.0.0.1", "127.0.0.2"]
        with contextlib.suppress(OSError):
            # where the machine has IPv6
            ports.append(await target.start("::1", 0))
            hosts.append("::1")
        addresses = [
            f"[{host}]:{port},1" if ":" in host else f"{host}:{port},1"
            for host, port in zip(hosts, ports, strict=True)
        ]
        sessions = []
        for number, (host, port) in enumerate(zip(hosts, ports, strict=True)):
            (found,) = await send_targets(host, port, initiator_name=INITIATOR, isid=ISID)
            assert list(found.addresses) == addresses
            isid = ISID[:5] + bytes([number])
            sessions.append(
                await IscsiInitiator.connect(host, port, TARGET, INITIATOR, isid, ping_interval=None)
            )
        assert (await sessions[0].execute(0, write(0, b"p" * BLOCK))).good
        for initiator in sessions:
            assert (await initiator.execute(0, read(0, 1))).data_in == b"p" * BLOCK
        portals = [session.portal for session in target.sessions()]
        assert [f"{portal},1" for portal in portals] == addresses
        # A nexus is an initiator port and the target's one port, through whichever portal.
        again = await IscsiInitiator.connect(
            hosts[1], ports[1], TARGET, INITIATOR, ISID[:5] + b"\0", ping_interval=None
        )
        assert await sessions[0].wait_lost()
        await again.close()
        await target.close()
        for host, port in zip(hosts, ports, strict=True):
            with pytest.raises(ConnectError):
                await send_targets(host, port, initiator_name=INITIATOR, isid=ISID)

    run(test)
