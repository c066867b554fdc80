"""The helper front end in an agent: who is let in. `tests/peers` shows what happens then, on real disks."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from holdover.agent.attach.attachment import Attachments
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.attach.disks.open_disks import OpenDisks
from holdover.agent.attach.front_end import HelperFrontEnd
from holdover.agent.attach.records import Keeper
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig, ApiConfig, ConfigError, HelperConfig, load_config
from holdover.config.rules import Rules
from holdover.helper.connection import Peer
from holdover.helper.listener import ListenerError
from holdover.journal.memory import MemoryJournal
from holdover.paths.host_disks import HostDisks
from holdover.paths.sgio import OpenDevice, SgIo
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import AdditionalSense, decode_sense

NO_DISK = OpenDevice(0, os.stat("/dev/null"))


def agent(socket: Path, **more: str) -> AgentConfig:
    return AgentConfig(
        name="h",
        initiator="iqn.2026-11.org.example:h",
        state_dir=str(socket.with_name("state")),
        api=ApiConfig(),
        helper=HelperConfig(socket=str(socket), **more),
    )


def no_guest(*_: object, **__: object) -> HostedGuest:
    raise AssertionError("a guest was made")


async def nobody_starts(_: str, __: object) -> str:
    raise AssertionError("a guest was claimed")


def test_the_socket_has_the_mode_that_was_asked_for_and_goes_with_the_agent(tmp_path: Path) -> None:
    async def test() -> None:
        socket = tmp_path / "helper.sock"
        host = Host(agent(socket, mode="0600"))
        await host.start()
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        with pytest.raises(ListenerError, match="somebody listens there already"):
            await Host(agent(socket)).start()
        await host.close()
        assert not socket.exists()

    asyncio.run(test())


@pytest.mark.parametrize("alive", [True, False])
def test_a_process_that_is_no_guest_is_refused(alive: bool) -> None:
    async def test() -> None:
        pid = os.getpid() if alive else 0
        io = SgIo(1)
        disks = HostDisks(io)
        maker = DeviceMaker(Rules([]), disks, io, Keeper(MemoryJournal()), 1, lambda _: False, OpenDisks())
        attachments = Attachments(agent(Path("/x")), {}, no_guest, maker, lambda _: False, nobody_starts)
        front_end = HelperFrontEnd(attachments, maker, disks)
        response = await front_end.handle(Peer(pid, 0, 0), NO_DISK, in_command(InServiceAction.READ_KEYS))
        assert decode_sense(response.sense).additional == AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED
        io.close()

    asyncio.run(test())


def test_a_guest_without_any_front_end_is_refused(tmp_path: Path) -> None:
    text = (
        'name = "h"\ninitiator = "iqn.2026-11.org.example:h"\n[api]\nlisten = "unix:/api.sock"\n'
        '{helper}[[guest]]\nname = "db1"\nmachine = "pc"\ndevices = ["scsi-block,drive=/dev/sda"]\n'
    )
    file = tmp_path / "agent.toml"
    file.write_text(text.format(helper='[helper]\nsocket = "/run/x.sock"\n'), encoding="utf-8")
    assert load_config(file).guest[0].export is None
    file.write_text(text.format(helper=""), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"guest db1: has no export, and there is no \[helper\] socket"):
        load_config(file)


@pytest.mark.parametrize(("key", "value"), [("socket", "relative"), ("mode", "rw"), ("mode", "01777")])
def test_a_socket_that_cannot_be_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"helper.{key}"):
        HelperConfig(**{"socket": "/run/x.sock", key: value})
