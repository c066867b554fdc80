"""Hosts that are declared dead: their guests are taken, and they find that out when they come back."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from holdover.api.client import AgentRefused
from holdover.api.migration_documents import MigrationRequest
from holdover.api.placement_documents import HostDeclaration
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.status import Status
from tests.agent.hosts import GUEST, KEY, WRITE, DyingJournal, San, san
from tests.agent.placement.test_cold_start import shut_down, start

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
DEAD = HostDeclaration(dead=True, by="root", why="power is off")
ALIVE = HostDeclaration(dead=False, by="root")


async def gate_becomes(set_up: San, host: str, gate: str) -> None:
    while (await set_up.gates())[host] != gate:  # noqa: ASYNC110 - no event
        await asyncio.sleep(0.05)


@pytest.mark.parametrize("kind", [None, WERO, ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS])
def test_what_a_dead_host_had_is_taken_from_the_luns_own_words(
    tmp_path: Path, kind: ReservationType | None
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.register(aptpl=True)
            if kind is not None:
                await guest.reserve(kind)
            third = set_up.third()
            await third.register(0x77, aptpl=True)
            await shut_down(set_up, "host-a")
            await set_up.stop("host-a")
            operator = set_up.clients["host-b"]
            hosts = (await operator.declare_host("host-a", DEAD)).hosts
            assert [(each.name, each.answers) for each in hosts] == [("host-a", False)]
            assert hosts[0].dead is not None
            assert (hosts[0].dead.by, hosts[0].dead.why) == ("root", "power is off")
            assert "host-a is declared dead" in "".join((await operator.guests()).warnings)
            started = await start(set_up, "host-b")
            assert "was taken from host-a" in started.text
            registrants = await set_up.registrants()
            every = kind is ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
            assert registrants == {"host-b": (KEY, kind is not None), "third": (0x77, every)}
            device = (await operator.guest(GUEST)).devices[0]
            assert (device.gate, device.aptpl, device.stale) == ("running", True, False)
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


def test_a_host_that_comes_back_keeps_its_gates_shut_until_it_is_alive(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").register()
            await shut_down(set_up, "host-a")
            await set_up.stop("host-a")
            await set_up.clients["host-b"].declare_host("host-a", DEAD)
            await set_up.start("host-a")
            await gate_becomes(set_up, "host-a", "departed")
            assert "has declared this host dead" in "".join(
                (await set_up.clients["host-a"].guests()).warnings
            )
            with pytest.raises(AgentRefused, match="host-b has declared host-a dead"):
                await start(set_up, "host-a")
            # that stays so after another restart
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert (await set_up.gates())["host-a"] == "departed"
            hosts = (await set_up.clients["host-b"].declare_host("host-a", ALIVE)).hosts
            assert hosts[0].dead is None
            # its registration was not taken, so it is found again
            await start(set_up, "host-a")
            device = (await set_up.clients["host-a"].guest(GUEST)).devices[0]
            assert (device.gate, device.key) == ("running", hex(KEY))

    asyncio.run(test())


def test_after_a_new_boot_the_exports_open_when_all_peers_have_answered(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").register()
            await shut_down(set_up, "host-a")
            await set_up.stop("host-a")
            await set_up.stop("host-b")
            (tmp_path / "host-a.state" / "hosts.json").write_text('{"boot": "an earlier boot"}')
            await set_up.start("host-a")
            host = set_up.hosts["host-a"]
            assert host.guests[GUEST].export == ""
            warnings = "".join((await set_up.clients["host-a"].guests()).warnings)
            assert "host-b has not said yet" in warnings
            await set_up.start("host-b")
            while not host.guests[GUEST].export:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)
            await set_up.guest_on("host-a").must(WRITE)

    asyncio.run(test())


def test_a_declaration_on_record_shuts_the_gates_before_anybody_is_asked(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").register()
            await shut_down(set_up, "host-a")
            await set_up.stop("host-a")
            await set_up.clients["host-b"].declare_host("host-a", DEAD)
            await set_up.start("host-a")
            await gate_becomes(set_up, "host-a", "departed")
            while not set_up.hosts["host-a"].placement.hosts.declared_by:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.01)
            await set_up.stop("host-a")
            await set_up.stop("host-b")
            # the gates that it had put on record are lost
            set_up.journals["host-a"] = DyingJournal()
            await set_up.start("host-a")
            assert (await set_up.clients["host-a"].guest(GUEST)).devices[0].gate == "departed"

    asyncio.run(test())


def test_no_guest_goes_to_a_host_that_is_declared_dead(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").register()
            source = set_up.clients["host-a"]
            await set_up.stop("host-b")
            await source.declare_host("host-b", DEAD)
            await set_up.start("host-b")
            refused = r"host-b is declared dead on host-a \(.*\), so no guest goes there"
            with pytest.raises(AgentRefused, match=refused) as problem:
                await source.prepare(GUEST, "h1", "host-b")
            assert "holdover host declare-alive host-b" in str(problem.value)
            migration = await source.migrate(GUEST, MigrationRequest(to="host-b", migration_id="m1"))
            while migration.open:
                migration = await source.migration(GUEST)
            assert re.search(refused, migration.reason or migration.problem)
            assert await set_up.registrants() == {"host-a": (KEY, False)}
            await source.declare_host("host-b", ALIVE)
            assert (await source.prepare(GUEST, "h2", "host-b")).state == "prepared"

    asyncio.run(test())


def test_a_host_that_answers_is_not_declared_dead(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            operator = set_up.clients["host-b"]
            with pytest.raises(AgentRefused, match="host-a is not declared dead: its agent answers"):
                await operator.declare_host("host-a", DEAD)
            with pytest.raises(AgentRefused, match="host-a is not declared dead on host-b"):
                await operator.declare_host("host-a", ALIVE)

    asyncio.run(test())


def test_a_login_where_the_guest_is_not_is_explained(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").register()
            await shut_down(set_up, "host-a")
            await start(set_up, "host-b")
            there = set_up.guest_on("host-a")
            assert (await there.tell(WRITE)).status is Status.CHECK_CONDITION
            operator = set_up.clients["host-a"]
            while not (warnings := (await operator.guests()).warnings):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.05)
            assert "is logged in to its export, and the guest is not on host-a" in warnings[0]
            assert "it is on host-b. If it is to run here: holdover guest start db1" in warnings[0]
            await start(set_up, "host-a")
            assert (await operator.guests()).warnings == ()
            await there.must(WRITE)

    asyncio.run(test())


def test_a_guest_is_released_and_only_one_that_has_nothing_is_forgotten(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest, operator = set_up.guest_on("host-a"), set_up.clients["host-a"]
            await guest.register()
            await guest.reserve(WERO)
            third = set_up.third()
            await third.register(0x77)
            with pytest.raises(AgentRefused, match="guest db1 runs on host-a"):
                await operator.release_guest(GUEST)
            with pytest.raises(AgentRefused, match="is in the agent's file on host-a"):
                await operator.forget_guest(GUEST)
            await shut_down(set_up, "host-a")
            released = await operator.release_guest(GUEST)
            assert "guest db1 is not on host-a any more" in released.text
            assert await set_up.registrants() == {"third": (0x77, False)}
            assert await set_up.gates() == {"host-a": "departed", "host-b": "incoming"}
            assert "it had nothing there" in (await operator.release_guest(GUEST)).text

    asyncio.run(test())
