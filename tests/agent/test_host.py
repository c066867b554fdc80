"""A host's guests as the agent's file describes them: rules where a device says nothing, own sockets."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig, ConfigError, GuestConfig, HelperConfig, Limits
from holdover.config.rules import Rule
from holdover.iscsi.target.target import IscsiTarget
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from tests.agent.hosts import WRITE, san
from tests.rig.processes import free_port

IQN = "iqn.2026-11.org.example:san"


@asynccontextmanager
async def lun(folder: Path) -> AsyncIterator[str]:
    """A LUN over iSCSI: how to write it."""
    embedded = EmbeddedLun.open(LunOptions(folder / "lun", 1 << 20))
    target = IscsiTarget(IQN, {0: embedded})
    port = await target.start("127.0.0.1", 0)
    try:
        yield f"iscsi://127.0.0.1:{port}/{IQN}/0"
    finally:
        await target.close()
        await embedded.close()


def host(
    folder: Path,
    drive: str,
    *rules: Rule,
    option: str = "",
    helper: bool = False,
    machine_type: str = "pc-q35-7.2",
) -> Host:
    """A host with one guest, "db1", which has one device."""
    own = str(folder / "own.sock") if helper else None
    device = f"scsi-block,drive={drive}{option}"
    guest = GuestConfig(
        name="db1", machine_type=machine_type, devices=(device,), export="127.0.0.1:0", helper=own
    )
    return Host(
        AgentConfig(
            name="host",
            initiator="iqn.2026-11.org.example:host",
            state_dir=str(folder / "state"),
            guest=(guest,),
            helper=HelperConfig(mode="0600") if helper else None,
            rule=rules,
            limits=Limits(connect=1, step=1),
        )
    )


@pytest.mark.parametrize(
    ("machine_type", "rules", "option", "migrate_pr", "warned"),
    [
        ("pc-q35-4.1-somebody", (), "", False, True),
        ("pc-q35-4.1-somebody", (), ",migrate-pr=off", False, False),
        ("pc-q35-4.1-somebody", (Rule(guest="db1", migrate_pr="on"),), "", True, False),
        ("pc-q35-rhel9.4.0", (), "", False, False),
        ("microvm", (), "", True, False),
    ],
)
def test_a_machine_type_that_says_nothing_is_warned_of(
    tmp_path: Path, machine_type: str, rules: tuple[Rule, ...], option: str, migrate_pr: bool, warned: bool
) -> None:
    async def test() -> None:
        async with lun(tmp_path) as drive:
            here = host(tmp_path, drive, *rules, option=option, machine_type=machine_type)
            with capture_logs() as logged:
                await here.start()
            (device,) = here.guests["db1"].devices
            assert device.block.migrate_pr is migrate_pr
            warnings = list(here.state().warnings)
            assert [each["reason"] for each in logged if machine_type in each.get("reason", "")] == warnings
            assert len(warnings) == warned
            for text in warnings:
                assert text.startswith(
                    f"guest db1: the version of QEMU that machine type {machine_type} stands for"
                )
                assert '[[rule]] guest = "db1" migrate-pr = "on"' in text
            await here.close()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("rules", "option", "migrate_pr", "adopt"),
    [
        ((), "", False, None),
        ((Rule(guest="db*", migrate_pr="on"),), "", True, None),
        ((Rule(lun="naa.*", migrate_pr="on", adopt=True),), "", True, True),
        ((Rule(lun="eui.*", migrate_pr="on", adopt=True),), "", False, None),
        ((Rule(guest="db1", migrate_pr="on"),), ",migrate-pr=off", False, None),
        ((Rule(guest="db2", migrate_pr="on"), Rule(adopt=False)), "", False, False),
    ],
)
def test_rules_decide_where_the_device_does_not(
    tmp_path: Path, rules: tuple[Rule, ...], option: str, migrate_pr: bool, adopt: bool | None
) -> None:
    async def test() -> None:
        async with lun(tmp_path) as drive:
            here = host(tmp_path, drive, *rules, option=option)
            await here.start()
            (device,) = here.guests["db1"].devices
            assert (device.block.migrate_pr, device.adopt) == (migrate_pr, adopt)
            await here.close()

    asyncio.run(test())


def test_a_rule_for_a_lun_that_cannot_be_asked_is_an_error_that_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        drive = f"iscsi://127.0.0.1:{free_port()}/{IQN}/0"
        here = host(tmp_path, drive, Rule(lun="naa.*", migrate_pr="on"))
        with pytest.raises(
            ConfigError, match=r'guest db1: .* the rule for lun = "naa.\*" may be meant for it'
        ):
            await here.start()
        # where the LUN does not matter it may be away
        here = host(tmp_path, drive, Rule(guest="db1", migrate_pr="on"))
        await here.start()
        assert here.guests["db1"].devices[0].block.migrate_pr
        await here.close()

    asyncio.run(test())


def test_a_guest_has_a_socket_of_its_own_beside_its_export(tmp_path: Path) -> None:
    async def test() -> None:
        async with lun(tmp_path) as drive:
            here = host(tmp_path, drive, helper=True)
            await here.start()
            socket = tmp_path / "own.sock"
            assert here.helpers.paths == (str(socket),)
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            await here.close()
            assert not socket.exists()

    asyncio.run(test())


def test_an_agent_started_again_as_incoming_goes_by_its_record(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.orchestrator().run(None)
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}
            assert set_up.configs["host-b"].guest[0].incoming
            for name in set_up.configs:
                await set_up.stop(name)
                await set_up.start(name)
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())
