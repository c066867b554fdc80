"""A guest's reservations from one agent to the other, and back when something fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.documents import Stale
from holdover.migrate.result import MigrateFailed, Progress
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation.reservation_in import Capabilities
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.status import Status
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, KEY, WRITE, san
from tests.rig.amounts import some


@pytest.mark.parametrize("kind", some(ReservationType, 3))
@pytest.mark.parametrize("done", ["prepare", "commit"])
def test_after_a_failure_the_guest_goes_on_on_the_source(
    tmp_path: Path, kind: ReservationType, done: str
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register(aptpl=True)
            await reserved(set_up, kind)
            guest = set_up.guest_on("host-a")
            orchestrator = set_up.orchestrator()
            orchestrator.fail_after = done
            with pytest.raises(MigrateFailed, match=f"a failure after {done} was asked for") as failed:
                await orchestrator.run(None)
            assert not failed.value.in_doubt
            assert "stays on host-a" in failed.value.now
            shared = kind.all_registrants
            assert await set_up.registrants() == {"third": (KEY, shared), "host-a": (KEY, True)}
            await guest.must(WRITE)
            gates = [(await client.guest(GUEST)).devices[0].gate for client in set_up.clients.values()]
            assert gates == ["running", "incoming"]
            # and the next try goes through
            await set_up.orchestrator().run(None)
            assert (await set_up.registrants())["host-b"] == (KEY, True)

    asyncio.run(test())


def test_commands_wait_while_the_guest_leaves_and_pass_when_it_comes_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            guest = set_up.guest_on("host-a")
            orchestrator = set_up.orchestrator()
            await orchestrator.check()
            await orchestrator.prepare()
            await guest.must(WRITE)
            await orchestrator.commit()
            write = asyncio.create_task(guest.tell(WRITE))
            state = await set_up.clients["host-a"].guest(GUEST)
            while state.devices[0].held == 0:
                state = await set_up.clients["host-a"].guest(GUEST)
            assert state.devices[0].gate == "leaving"
            assert not write.done()
            await orchestrator.roll_back("asked for")
            assert (await write).good

    asyncio.run(test())


def test_commands_that_wait_at_the_destination_pass_once_the_reservation_is_there(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up, ReservationType.EXCLUSIVE_ACCESS)
            early = set_up.guest_on("host-b")
            # what a QEMU that opens the disk may ask
            capabilities = asyncio.create_task(early.tell(in_command(InServiceAction.REPORT_CAPABILITIES)))
            write = asyncio.create_task(early.tell(WRITE))
            state = await set_up.clients["host-b"].guest(GUEST)
            while state.devices[0].held < 2:
                state = await set_up.clients["host-b"].guest(GUEST)
            await set_up.orchestrator().run(None)
            assert (await write).good
            found = Capabilities.decode((await capabilities).data_in)
            assert not found.sip_c
            assert not found.atp_c

    asyncio.run(test())


def test_a_half_done_handover_is_rolled_back_by_hand(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            source = set_up.clients["host-a"]
            await source.prepare(GUEST, "h1", set_up.apis["host-b"])
            await source.commit(GUEST, "h1")
            assert await set_up.registrants() == {"host-b": (KEY, True)}
            with pytest.raises(MigrateFailed, match="handover h1 of this guest is under way") as failed:
                await set_up.orchestrator().run(None)
            assert not failed.value.in_doubt
            assert "guest db1's reservations are on" in failed.value.now
            assert "holdover handover rollback db1 --at" in failed.value.now
            await source.roll_back(GUEST, "h1")
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            await set_up.guest_on("host-a").must(WRITE)
            # once more is harmless
            assert (await source.roll_back(GUEST, "h1")).state == "stayed"

    asyncio.run(test())


@pytest.mark.parametrize("during", ["prepare", "commit", "finish"])
def test_an_interrupt_rolls_back_what_is_not_at_its_end(tmp_path: Path, during: str) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            orchestrator = set_up.orchestrator()
            moving = asyncio.ensure_future(orchestrator.run(None))

            def tell(progress: Progress) -> None:
                if (progress.action, progress.state) == (during, "begins"):
                    moving.cancel()

            orchestrator.tell = tell
            if during == "finish":
                with pytest.raises(asyncio.CancelledError):
                    await moving
                assert await set_up.registrants() == {"host-b": (KEY, True)}
                await set_up.guest_on("host-b").must(WRITE)
                return
            with pytest.raises(MigrateFailed, match="interrupted") as failed:
                await moving
            assert not failed.value.in_doubt
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            await set_up.guest_on("host-a").must(WRITE)

    asyncio.run(test())


class Deaf(AgentClient):
    """The answers of some requests do not come, although they were done."""

    def __init__(self, alive: AgentClient, *lost: str) -> None:
        super().__init__(alive.api)
        self._lost = list(lost)

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        answer = await super()._exchange(method, path, body)
        what = path.rpartition("/")[2]
        if what in self._lost:
            self._lost.remove(what)
            raise AgentError(f"the answer to {what} did not come")
        return answer


@pytest.mark.parametrize("lost", ["prepare", "commit", "finish"])
def test_a_request_whose_answer_was_lost_is_repeated(tmp_path: Path, lost: str) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            orchestrator = set_up.orchestrator()
            orchestrator.source = Deaf(orchestrator.source, lost)
            try:
                outcome = await orchestrator.run(None)
            finally:
                await orchestrator.source.close()
            assert outcome.warnings == ()
            assert await set_up.registrants() == {"host-b": (KEY, True)}

    asyncio.run(test())


def test_what_the_source_rolled_back_by_itself_is_not_asked_for_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            orchestrator = set_up.orchestrator()
            await orchestrator.check()
            await orchestrator.prepare()
            # somebody removes what was prepared
            third = set_up.third()
            await third.register(1)
            for device in set_up.hosts["host-b"].guests[GUEST].devices:
                await device._path.execute(out_command(OutServiceAction.REGISTER, KEY, 0))
            with pytest.raises(AgentRefused) as refused:
                await orchestrator.commit()
            assert refused.value.problem.state == "stayed"
            assert not refused.value.problem.in_doubt
            before = len(set_up.progress)
            await orchestrator.bring_back(refused.value)
            assert len(set_up.progress) == before
            assert await set_up.registrants() == {"host-a": (KEY, True), "third": (1, False)}
            await set_up.guest_on("host-a").must(WRITE)

    asyncio.run(test())


@pytest.mark.provokes("stale")
def test_refused_is_what_differs_from_what_was_tracked(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register(1)
            await reserved(set_up)
            kind = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
            await third.must(out_command(OutServiceAction.PREEMPT, 1, KEY, type=kind))
            orchestrator = set_up.orchestrator()
            orchestrator.stale = Stale.REFUSE
            with pytest.raises(MigrateFailed, match="--stale refuse was given") as failed:
                await orchestrator.run(None)
            assert failed.value.now == "Nothing was changed."
            assert await set_up.registrants() == {"third": (1, True)}
            orchestrator = set_up.orchestrator()
            orchestrator.stale = Stale.REREAD
            await orchestrator.run(None)
            assert await set_up.registrants() == {"third": (1, True)}

    asyncio.run(test())


def test_a_guest_that_is_as_it_was_tracked_is_not_refused(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2) as set_up:
            await reserved(set_up)
            orchestrator = set_up.orchestrator()
            orchestrator.stale = Stale.REFUSE
            await orchestrator.run(None)
            assert await set_up.registrants() == {"host-b": (KEY, True)}

    asyncio.run(test())


@pytest.mark.parametrize("tracked", [True, False])
def test_forced_is_only_what_cannot_free_a_reservation(tmp_path: Path, tracked: bool) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register()
            guest = set_up.guest_on("host-a")
            await guest.register()
            holder = guest if tracked else third
            await holder.reserve(ReservationType.WRITE_EXCLUSIVE)
            device = set_up.hosts["host-a"].guests[GUEST].devices[0]
            device.block.mark_stale()
            before = await set_up.registrants()
            with pytest.raises(MigrateFailed) as failed:
                await set_up.orchestrator().run(None)
            assert "It is not known whether it is the guest's" in failed.value.reason
            device.block.mark_stale()
            forced = set_up.orchestrator()
            forced.stale = Stale.FORCE
            if tracked:
                await forced.run(None)
                assert await set_up.registrants() == {"third": (KEY, False), "host-b": (KEY, True)}
            else:
                with pytest.raises(MigrateFailed, match="It is not known whether it is the guest's"):
                    await forced.run(None)
                assert await set_up.registrants() == before

    asyncio.run(test())


def test_different_settings_on_the_hosts_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, migrate_pr=("on", "off")) as set_up:
            await reserved(set_up)
            with pytest.raises(
                MigrateFailed, match="migrate-pr is on on the source and off on host-b"
            ) as failed:
                await set_up.orchestrator().run(None)
            assert not failed.value.in_doubt
            assert (await set_up.clients["host-a"].guest(GUEST)).devices[0].gate == "running"

    asyncio.run(test())


def test_a_guest_that_runs_on_the_destination_is_left_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            set_up.hosts["host-b"].guests[GUEST].devices[0].move_gate(
                set_up.hosts["host-a"].guests[GUEST].devices[0].block.gate
            )
            with pytest.raises(MigrateFailed, match=r"the gate of .* is running; give it --incoming"):
                await set_up.orchestrator().run(None)

    asyncio.run(test())


def test_a_guest_that_was_preempted_meanwhile_does_not_get_its_registration_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register(1)
            await reserved(set_up)
            kind = ReservationType.WRITE_EXCLUSIVE
            await third.must(out_command(OutServiceAction.PREEMPT, 1, KEY, type=kind))
            await set_up.orchestrator().run(None)
            assert await set_up.registrants() == {"third": (1, True)}
            assert (await set_up.guest_on("host-b").tell(WRITE)).status is Status.RESERVATION_CONFLICT

    asyncio.run(test())


def test_a_nexus_of_the_destination_with_another_key_is_not_overwritten(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            # a guest of that name registered there in a former life
            other = set_up.hosts["host-b"].guests[GUEST].devices[0]
            response = await other._path.execute(out_command(OutServiceAction.REGISTER, 0, 0xBAD))
            while not response.good:
                response = await other._path.execute(out_command(OutServiceAction.REGISTER, 0, 0xBAD))
            with pytest.raises(
                MigrateFailed, match="registered with a key that is not the guest's"
            ) as failed:
                await set_up.orchestrator().run(None)
            # rolling back must not remove what was there before either
            assert await set_up.registrants() == {"host-a": (KEY, True), "host-b": (0xBAD, False)}
            assert "naa." in failed.value.reason
            assert not failed.value.in_doubt
            await set_up.guest_on("host-a").must(WRITE)

    asyncio.run(test())
