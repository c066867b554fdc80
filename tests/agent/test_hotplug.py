"""Disks that a guest's export gets and loses while the guest runs, with real initiators."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from holdover.agent.hotplug.record import DiskChanges, DiskRecord, numbered
from holdover.agent.reload import Reload
from holdover.api.client import AgentRefused
from holdover.api.placement_documents import AttachDisk, DetachDisk
from holdover.config.agent_file import ConfigError, GuestConfig
from holdover.journal.journal import JournalError
from holdover.scsi.cdbs.cdb import ReportLuns
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, decode_sense
from tests.agent.hosts import GUEST, KEY, READ, WRITE, Initiator, San, san

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


def disk(set_up: San, number: int) -> str:
    return f"scsi-block,id=disk{number},drive={set_up.url(number)},migrate-pr=on"


async def with_one_disk(set_up: San, host: str) -> None:
    """Restart the agent of a host with only the first disk in its file."""
    config = set_up.configs[host]
    guest = msgspec.structs.replace(config.guest[0], devices=config.guest[0].devices[:1])
    set_up.configs[host] = msgspec.structs.replace(config, guest=(guest,))
    await set_up.stop(host)
    await set_up.start(host)


async def luns(guest: Initiator) -> list[int]:
    data = (await guest.must(Command(ReportLuns(256).encode(), data_in_length=256))).data_in
    return [data[each + 1] for each in range(8, 8 + int.from_bytes(data[:4], "big"), 8)]


def test_a_disk_is_attached_reserved_and_kept_through_a_restart(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            await with_one_disk(set_up, "host-a")
            first, operator = set_up.guest_on("host-a"), set_up.clients["host-a"]
            await first.must(READ)
            assert await luns(first) == [0]
            done = await operator.attach_disk(GUEST, AttachDisk(device=disk(set_up, 1)))
            assert "at LUN 1 of its export" in done.text
            told = decode_sense((await first.path.execute(READ)).sense)
            assert told.key is SenseKey.UNIT_ATTENTION
            assert told.additional == AdditionalSense.REPORTED_LUNS_DATA_HAS_CHANGED
            assert await luns(first) == [0, 1]
            second = set_up.guest_on("host-a", 1)
            await second.must(WRITE)
            await second.register()
            await second.reserve(WERO)
            await set_up.stop("host-a")
            await set_up.start("host-a")
            state = await operator.guest(GUEST)
            assert [(each.lun, each.id, each.key) for each in state.devices] == [
                (0, "disk0", None),
                (1, "disk1", f"{KEY:#x}"),
            ]
            await set_up.guest_on("host-a", 1).must(WRITE)

    asyncio.run(test())


def test_a_disk_with_the_guests_reservation_goes_only_when_it_is_released(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            guest, operator = set_up.guest_on("host-a", 1), set_up.clients["host-a"]
            await guest.register()
            await guest.reserve(WERO)
            with pytest.raises(AgentRefused, match=r"holds the reservation.*detach-disk db1 1 --release"):
                await operator.detach_disk(GUEST, DetachDisk(lun=1))
            await guest.must(WRITE)
            assert await set_up.registrants(1) == {"host-a": (KEY, True)}
            await operator.detach_disk(GUEST, DetachDisk(lun=1, release=True))
            assert await set_up.registrants(1) == {}
            first = set_up.guest_on("host-a")
            assert await luns(first) == [0]
            gone = decode_sense((await guest.tell(WRITE)).sense)
            assert gone.additional == AdditionalSense.LOGICAL_UNIT_NOT_SUPPORTED
            with pytest.raises(AgentRefused, match="its only one"):
                await operator.detach_disk(GUEST, DetachDisk(lun=0))
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert [each.lun for each in (await operator.guest(GUEST)).devices] == [0]
            await operator.attach_disk(GUEST, AttachDisk(device=disk(set_up, 1), lun=7))
            assert [each.lun for each in (await operator.guest(GUEST)).devices] == [0, 7]
            await set_up.guest_on("host-a", 7).must(WRITE)
            assert (await operator.secret(GUEST)).numbers == (0, 7)

    asyncio.run(test())


def test_a_disk_by_another_address_of_the_target_is_attached_with_a_warning(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            await with_one_disk(set_up, "host-a")
            other = disk(set_up, 1).replace("127.0.0.1", "localhost")
            with capture_logs() as logs:
                await set_up.clients["host-a"].attach_disk(GUEST, AttachDisk(device=other))
            (warned,) = (each for each in logs if each["event"] == "The agent warns its operator.")
            assert (warned["log_level"], warned["guest"]) == ("warning", GUEST)
            for number, name in enumerate(("127.0.0.1", "localhost")):
                assert set_up.url(number).replace("127.0.0.1", name) in warned["reason"]

    asyncio.run(test())


def test_a_detach_that_fails_leaves_the_disk_open_and_says_what_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            second, operator = set_up.guest_on("host-a", 1), set_up.clients["host-a"]
            await second.register()
            journal = set_up.journals["host-a"]

            async def fail(_: object) -> None:
                raise JournalError(Path("journal"), "the disk is full", "make room")

            with monkeypatch.context() as patched:
                patched.setattr(journal, "forget", fail)
                with pytest.raises(AgentRefused, match="the disk is full") as problem:
                    await operator.detach_disk(GUEST, DetachDisk(lun=1, release=True))
            assert "the guest's registration on" in str(problem.value)
            assert "is removed already" in str(problem.value)
            await second.must(WRITE)
            # the record has it open too
            await set_up.stop("host-a")
            await set_up.start("host-a")
            await set_up.guest_on("host-a", 1).must(WRITE)

    asyncio.run(test())


def test_a_disk_waits_while_a_handover_begins(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            host, operator = set_up.hosts["host-a"], set_up.clients["host-a"]
            async with host.handovers.lock(GUEST):
                detaching = asyncio.create_task(operator.detach_disk(GUEST, DetachDisk(lun=1)))
                while not host.handovers.lock(GUEST)._waiters:  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0.01)
                assert len(host.guests[GUEST].devices) == 2
            await detaching
            assert len(host.guests[GUEST].devices) == 1

    asyncio.run(test())


def test_what_cannot_be_attached_or_detached_changes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            await with_one_disk(set_up, "host-a")
            operator = set_up.clients["host-a"]
            for request, text in (
                (AttachDisk(device=disk(set_up, 1), lun=0), "LUN 0 is in use by"),
                (AttachDisk(device=disk(set_up, 1), lun=16384), "not within 0 to 16383"),
                (AttachDisk(device=disk(set_up, 0)), "device id 'disk0' is in use"),
                (AttachDisk(device=f"scsi-block,drive={set_up.url(0)}"), "at LUN 0 already"),
                (AttachDisk(device="scsi-disk,drive=/dev/sda"), "is not known"),
                (AttachDisk(device=f"scsi-block,drive={set_up.url(5)}"), "stay as they are"),
            ):
                with pytest.raises(AgentRefused, match=text):
                    await operator.attach_disk(GUEST, request)
            with pytest.raises(AgentRefused, match=r"has no LUN 3; it has 0"):
                await operator.detach_disk(GUEST, DetachDisk(lun=3))
            assert [each.lun for each in (await operator.guest(GUEST)).devices] == [0]

    asyncio.run(test())


def test_no_disk_comes_or_goes_while_the_guest_moves_and_a_new_one_moves_along(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2) as set_up:
            for host in ("host-a", "host-b"):
                await with_one_disk(set_up, host)
                await set_up.clients[host].attach_disk(GUEST, AttachDisk(device=disk(set_up, 1)))
            guest = set_up.guest_on("host-a", 1)
            await guest.register()
            await guest.reserve(WERO)
            operator = set_up.clients["host-a"]
            await operator.prepare(GUEST, "0" * 16, "host-b")
            for host in ("host-a", "host-b"):
                with pytest.raises(AgentRefused, match="a handover or a migration of it is under way"):
                    await set_up.clients[host].detach_disk(GUEST, DetachDisk(lun=1, release=True))
                with pytest.raises(AgentRefused, match="a handover or a migration of it is under way"):
                    await set_up.clients[host].attach_disk(GUEST, AttachDisk(device=disk(set_up, 1)))
            await operator.commit(GUEST, "0" * 16)
            await operator.finish(GUEST, "0" * 16)
            assert await set_up.registrants(1) == {"host-b": (KEY, True)}
            await set_up.guest_on("host-b", 1).must(WRITE)

    asyncio.run(test())


def reload(set_up: San, host: str, *devices: str) -> list[str]:
    """Reload an agent, with these devices of the guest in its file; the keys that wait for a restart."""
    config = set_up.configs[host]
    wanted = msgspec.structs.replace(
        config, guest=(msgspec.structs.replace(config.guest[0], devices=devices),)
    )
    with capture_logs() as logs:
        Reload(set_up.hosts[host], None, lambda: wanted).now()
    set_up.configs[host] = wanted
    return [log["keys"] for log in logs if "keys" in log]


async def until_logged(logs: list[MutableMapping[str, Any]], text: str) -> None:
    while not any(text in str(log.get("reason")) for log in logs):  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)


async def until_luns(guest: Initiator, wanted: list[int]) -> None:
    while await luns(guest) != wanted:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.01)


async def drives(set_up: San) -> list[str]:
    return [each.drive for each in (await set_up.clients["host-a"].guest(GUEST)).devices]


def test_a_reload_attaches_and_detaches_the_disks_of_the_file(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=3, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            first, second, third = (disk(set_up, number) for number in range(3))
            guest = set_up.guest_on("host-a")
            assert await luns(guest) == [0, 1, 2]
            assert reload(set_up, "host-a", first) == []
            await until_luns(guest, [0])
            reload(set_up, "host-a", first, second)
            await until_luns(guest, [0, 1])
            await set_up.guest_on("host-a", 1).register()
            with capture_logs() as logs:
                # the guest is registered on what goes; what comes comes nevertheless
                assert reload(set_up, "host-a", first, third, second.replace("disk1", "disk7")) == []
                await until_logged(logs, "holdover guest detach-disk db1 1 --release")
                await until_logged(logs, "at LUN 1 already")
            assert await luns(guest) == [0, 1]
            await set_up.guest_on("host-a", 1).must(out_command(OutServiceAction.REGISTER, KEY, 0))
            reload(set_up, "host-a", first, third)
            changed = [set_up.url(0), set_up.url(2)]
            while await drives(set_up) != changed:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert await drives(set_up) == changed

    asyncio.run(test())


def test_a_reload_moves_no_disk_to_another_number(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=3, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            first, second, third = (disk(set_up, number) for number in range(3))
            with capture_logs() as logs:
                reload(set_up, "host-a", first, third)
                await until_logged(logs, "has the disk of LUN 2 at place 1")
            assert await luns(set_up.guest_on("host-a")) == [0, 1, 2]
            # what an operator has changed stays changed
            reload(set_up, "host-a", first, second, third)
            await set_up.clients["host-a"].detach_disk(GUEST, DetachDisk(lun=1))
            reload(set_up, "host-a", first, second)
            await until_luns(set_up.guest_on("host-a"), [0])

    asyncio.run(test())


def test_changes_that_the_file_has_taken_over_are_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        record = DiskRecord(tmp_path)
        old = GuestConfig(name="db1", machine_type="q35", devices=("a", "b"))
        await record.detach(old, 1, "b")
        await record.attach(old, 2, "c")
        await record.attach(old, 4, "d")
        assert record.devices(old) == {0: "a", 2: "c", 4: "d"}
        new = GuestConfig(name="db1", machine_type="q35", devices=("a", "x", "c"))
        await record.settle(new)
        assert record.devices(new) == {0: "a", 1: "x", 2: "c", 4: "d"}
        assert DiskRecord(tmp_path).devices(old) == {0: "a", 1: "b", 4: "d"}

    asyncio.run(test())


def test_a_change_counts_as_long_as_the_file_has_the_same_disk_there(tmp_path: Path) -> None:
    guest = GuestConfig(name="db1", machine_type="q35", devices=("a", "b"))
    changes = DiskChanges(attached={4: "c"}, detached={1: "b"})
    assert numbered(guest, changes, tmp_path) == {0: "a", 4: "c"}
    later = GuestConfig(name="db1", machine_type="q35", devices=("a", "x"))
    assert numbered(later, changes, tmp_path) == {0: "a", 1: "x", 4: "c"}
    with pytest.raises(ConfigError, match="LUN 0 is another disk in the agent's file"):
        numbered(guest, DiskChanges(attached={0: "c"}), tmp_path)


def test_a_record_that_cannot_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "disks.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        DiskRecord(tmp_path)
