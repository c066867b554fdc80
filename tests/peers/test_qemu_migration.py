"""A real Linux guest in an unmodified QEMU: its reservation moves with it while an intruder writes."""

from __future__ import annotations

import asyncio
import json

import pytest

from holdover.migrate.job import COPY
from holdover.migrate.result import MigrateFailed
from holdover.scsi.cdbs.opcodes import ReservationType
from tests.rig.amounts import some
from tests.rig.guest_commands import CAPABILITIES, RESERVATION, WRITE, WRITE_ON, clean
from tests.rig.processes import Rig
from tests.rig.site import KEY, RESERVATION_TYPES, Intruder, SharedSite, Site

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra", "busybox-static", "sg3-utils"),
    # one after another: each keeps a core busy
    pytest.mark.xdist_group("qemu"),
]


BESIDE = "send the rest to the destination"
"""What `holdover migrate` says it does beside the commit, where the destination was started with -S."""


@pytest.mark.parametrize(
    ("kind", "stopped"),
    some([(kind, False) for kind in sorted(RESERVATION_TYPES)] + [(1, True), (6, True), (7, True)], 3),
)
def test_the_reservation_moves_with_the_guest(kind: int, stopped: bool, shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        await site.reserve(kind)
        await site.assert_holds(kind)
        await site.run(WRITE_ON)
        async with Intruder.at_work(site.target) as intruder:
            await intruder.refused_again()
            before = intruder.refused
            done = await site.migrate(stopped=stopped)
            assert done.returncode == 0, done.stdout + done.stderr
            assert (BESIDE in done.stderr) is stopped
            assert intruder.refused > before
            await intruder.refused_again()
            await site.assert_holds(kind)
            await site.assert_goes_on_writing()
            assert clean(await site.workload("stop"))
        await site.unregister()

    shared.run(scenario)


@pytest.mark.parametrize(
    ("kind", "done", "stopped"),
    some(
        [
            (1, "commit", False),
            (6, "commit", False),
            (7, "commit", False),
            (5, "prepare", False),
            (3, "commit", True),
            (7, "commit", True),
        ],
        3,
    ),
)
def test_a_failure_leaves_the_guest_writing_on_the_source(
    kind: int, done: str, stopped: bool, shared: SharedSite
) -> None:
    async def scenario(site: Site) -> None:
        await site.reserve(kind)
        await site.run(WRITE_ON)
        source = site.here
        async with Intruder.at_work(site.target) as intruder:
            await intruder.refused_again()
            failed = await site.migrate("--fail-after", done, stopped=stopped)
            assert failed.returncode == 1, failed.stdout + failed.stderr
            assert f"a failure after {done} was asked for" in failed.stderr
            assert site.here is source
            await intruder.refused_again()
            await site.assert_holds(kind)
            await site.assert_goes_on_writing()
            assert clean(await site.workload("stop"))
        await site.unregister()

    shared.run(scenario)


@pytest.mark.parametrize(
    ("after", "stopped"),
    some([(COPY, False), ("prepare", False), (COPY, True), ("commit", False), ("commit", True)], 3),
)
def test_a_destination_that_dies_in_the_handover_leaves_the_guest_writing_on_the_source(
    after: str, stopped: bool, shared: SharedSite
) -> None:
    async def scenario(site: Site) -> None:
        kind = ReservationType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY
        await site.reserve(kind)
        await site.run(WRITE_ON)
        async with Intruder.at_work(site.target) as intruder:
            await intruder.refused_again()
            with pytest.raises(MigrateFailed) as failed:
                await site.migrate_with_a_dying_destination(after, stopped=stopped)
            assert not failed.value.in_doubt
            await intruder.refused_again()
            await site.assert_holds(kind)
            await site.assert_goes_on_writing()
            assert clean(await site.workload("stop"))
        await site.unregister()

    shared.run(scenario)


def test_a_guest_whose_migration_failed_moves_at_the_next_try(shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        await site.reserve(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        assert (await site.migrate("--fail-after", "commit")).returncode != 0
        done = await site.migrate()
        assert done.returncode == 0, done.stdout + done.stderr
        await site.assert_holds(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        await site.unregister()

    shared.run(scenario)


def test_the_guest_is_not_told_of_what_would_not_move_with_it(shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        seen = await site.run(CAPABILITIES)
        assert "(SIP_C): 0\n" in seen
        assert "(ATP_C): 0\n" in seen
        true = site.rig.holdover_json("pr", "capabilities", site.target.url())
        assert true["sip_c"] is True
        assert true["atp_c"] is True

    shared.run(scenario)


def test_aptpl_moves_with_the_registration(shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        await site.reserve(ReservationType.WRITE_EXCLUSIVE)
        assert "(PTPL_A): 1\n" in await site.run(CAPABILITIES)
        done = await site.migrate()
        assert done.returncode == 0, done.stdout + done.stderr
        assert "(PTPL_A): 1\n" in await site.run(CAPABILITIES)
        await site.unregister()

    shared.run(scenario)


def test_a_guest_without_a_registration_moves_and_leaves_the_disk_to_others(shared: SharedSite) -> None:
    async def scenario(site: Site) -> None:
        await site.run(WRITE_ON)
        done = await site.migrate("--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["outcome"]["standstill_ms"] > 0
        await site.assert_goes_on_writing()
        assert clean(await site.workload("stop"))
        assert site.rig.holdover_json("pr", "keys", site.target.url())["keys"] == []

    shared.run(scenario)


def test_without_migrate_pr_the_guest_is_a_stranger_to_its_disk_after_the_move(rig: Rig) -> None:
    """The harm; and the proof that the tests above could fail."""

    async def scenario() -> None:
        site = Site(rig, migrate_pr=False)
        try:
            await site.boot()
            assert "(SIP_C): 1\n" in await site.run(CAPABILITIES)
            await site.reserve(ReservationType.WRITE_EXCLUSIVE)
            await site.run(WRITE_ON)
            done = await site.migrate()
            assert done.returncode == 0, done.stdout + done.stderr
            status, _ = await site.try_to_run(WRITE)
            assert status != 0
            counts = await site.workload("stop")
            assert int(counts["write_errors"]) > 0
            # EBADE, which is what Linux makes of RESERVATION CONFLICT
            assert counts["last_error"] == "Invalid exchange"
            held = await site.run(RESERVATION)
            assert f"Key={KEY:#x}\n" in held
        finally:
            await site.end()

    asyncio.run(scenario())
