"""LUNs behind iSCSI: identities that last, sessions that are shared and come back, answers that are lost."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from holdover.iscsi.target.target import IscsiTarget
from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiPath, IscsiSessions, isid_of
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.status import Status
from tests.rig.processes import free_port

IQN = "iqn.2026-11.org.example:t"
ME = InitiatorIdentity("iqn.2026-11.org.example:me", isid_of("me"))
READY = Command(UnitReady().encode())


@dataclass
class Device:
    """Answers GOOD and remembers who asked; or answers never."""

    silent: bool = False
    asked: list[ITNexus] | None = None

    def __post_init__(self) -> None:
        self.asked = []
        self.reached = asyncio.Event()

    async def execute(self, nexus: ITNexus, command: Command) -> Response:
        assert self.asked is not None
        self.asked.append(nexus)
        self.reached.set()
        if self.silent:
            await asyncio.Event().wait()
        return Response(Status.GOOD)

    async def reset(self) -> None:
        pass


def path_to(sessions: IscsiSessions, port: int, lun: int = 0, identity: InitiatorIdentity = ME) -> IscsiPath:
    return sessions.path(parse_iscsi_url(f"iscsi://127.0.0.1:{port}/{IQN}/{lun}"), identity)


def test_an_isid_is_always_the_same_of_the_random_kind_and_differs_by_text() -> None:
    assert isid_of("db1") == isid_of("db1")
    assert isid_of("db1") != isid_of("db2")
    assert len(isid_of("db1")) == 6
    assert isid_of("db1")[0] >> 6 == 0b10


def test_an_unknown_target_is_refused_with_the_names_of_the_targets_that_there_are() -> None:
    async def test() -> None:
        target = IscsiTarget(f"{IQN}-other", {0: Device()})
        port = await target.start("127.0.0.1", 0)
        path = path_to(IscsiSessions(), port)
        with pytest.raises(PathError, match=f"target not found .*; the portal has {IQN}-other$"):
            await path.execute(READY)
        await path.close()
        await target.close()

    asyncio.run(test())


def test_paths_to_one_target_share_a_session_until_the_last_is_closed() -> None:
    async def test() -> None:
        ended = asyncio.Event()
        devices = {0: Device(), 1: Device()}
        target = IscsiTarget(IQN, devices, on_session=lambda change: ended.set() if change.ended else None)
        port = await target.start("127.0.0.1", 0)
        sessions = IscsiSessions()
        paths = [path_to(sessions, port, lun) for lun in (0, 1)]
        for path in paths:
            assert (await path.execute(READY)).good
        assert len(target.sessions()) == 1
        await paths[0].close()
        await paths[0].close()
        assert (await paths[1].execute(READY)).good
        await paths[1].close()
        await ended.wait()
        assert target.sessions() == []
        await target.close()

    asyncio.run(test())


def test_two_addresses_of_one_target_are_seen_and_forgotten_with_a_path() -> None:
    async def test() -> None:
        target = IscsiTarget(IQN, {0: Device()})
        ports = [await target.start("127.0.0.1", 0) for _ in range(2)]
        sessions = IscsiSessions()
        me = InitiatorIdentity(ME.initiator, ME.isid, "db1")
        paths = [path_to(sessions, port, identity=me) for port in ports]
        with capture_logs() as logs:
            while not list(sessions.warnings):
                for path in paths:
                    with suppress(PathError):
                        await path.execute(READY)
        (warning,) = sessions.warnings
        assert warning.startswith("guest db1: 127.0.0.1:")
        assert all(f"127.0.0.1:{port}" in warning for port in ports)
        (logged,) = logs
        assert (logged["log_level"], logged["guest"], logged["reason"]) == ("warning", "db1", warning)
        await paths[1].close()
        assert list(sessions.warnings) == []
        await paths[0].close()
        await target.close()

    asyncio.run(test())


def test_two_targets_of_one_name_are_two() -> None:
    async def test() -> None:
        targets = [IscsiTarget(IQN, {0: Device()}) for _ in range(2)]
        ports = [await target.start("127.0.0.1", 0) for target in targets]
        sessions = IscsiSessions()
        paths = [path_to(sessions, port) for port in ports]
        for _ in range(6):
            for target, port, path in zip(targets, ports, paths, strict=True):
                for each in paths:
                    assert (await each.execute(READY)).good
                await target.close()
                with pytest.raises(PathError):
                    await path.execute(READY)
                await target.start("127.0.0.1", port)
        assert list(sessions.warnings) == []
        for path in paths:
            await path.close()
        for target in targets:
            await target.close()

    asyncio.run(test())


def test_another_identity_is_another_nexus() -> None:
    async def test() -> None:
        device = Device()
        target = IscsiTarget(IQN, {0: device})
        port = await target.start("127.0.0.1", 0)
        sessions = IscsiSessions()
        other = InitiatorIdentity(ME.initiator, isid_of("other"))
        paths = [path_to(sessions, port, identity=identity) for identity in (ME, other)]
        for path in paths:
            await path.execute(READY)
        assert device.asked is not None
        assert len(set(device.asked)) == 2
        for path in paths:
            await path.close()
        await target.close()

    asyncio.run(test())


def test_a_session_comes_back_as_the_same_nexus() -> None:
    async def test() -> None:
        device = Device()
        target = IscsiTarget(IQN, {0: device})
        port = await target.start("127.0.0.1", 0)
        path = path_to(IscsiSessions(), port)
        await path.execute(READY)
        await target.close()
        with pytest.raises(PathError):
            await path.execute(READY)
        await target.start("127.0.0.1", port)
        assert (await path.execute(READY)).good
        assert device.asked is not None
        assert len(device.asked) == 2
        assert len(set(device.asked)) == 1
        await path.close()
        await target.close()

    asyncio.run(test())


def test_a_command_in_flight_when_the_connection_goes_is_in_doubt() -> None:
    async def test() -> None:
        device = Device(silent=True)
        target = IscsiTarget(IQN, {0: device})
        port = await target.start("127.0.0.1", 0)
        path = path_to(IscsiSessions(), port)
        command = asyncio.create_task(path.execute(READY))
        await device.reached.wait()
        await target.close()
        with pytest.raises(AnswerLost, match=f"iscsi://127.0.0.1:{port}/{IQN}/0: "):
            await command
        await path.close()

    asyncio.run(test())


def test_a_target_that_is_not_there_was_not_sent_anything() -> None:
    async def test() -> None:
        path = path_to(IscsiSessions(), free_port())
        with pytest.raises(PathError, match="cannot connect") as error:
            await path.execute(READY)
        assert not isinstance(error.value, AnswerLost)

    asyncio.run(test())


def test_the_password_is_not_part_of_the_name() -> None:
    url = parse_iscsi_url(f"iscsi://user%secret@127.0.0.1/{IQN}/0")
    assert "secret" not in IscsiSessions().path(url, ME).name
