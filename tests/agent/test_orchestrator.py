"""A guest's reservations from one agent to the other, and back when something fails."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.agent.api import Step
from holdover.agent.client import AgentClient
from holdover.agent.orchestrator import MigrateFailed, Progress
from holdover.scsi.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation_in import Capabilities
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.status import Status
from tests.agent.hosts import GUEST, KEY, READ, WRITE, San, san

each_type = pytest.mark.parametrize("kind", ReservationType, ids=lambda kind: kind.short_name)


async def reserved(
    set_up: San, kind: ReservationType = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
) -> None:
    guest = set_up.guest_on("host-a")
    await guest.register(aptpl=True)
    await guest.reserve(kind)
    await guest.must(WRITE)


@each_type
def test_the_reservation_follows_the_guest_there_and_back(tmp_path: Path, kind: ReservationType) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up, kind)
            intruder = set_up.third("intruder")
            for source, destination in (("host-a", "host-b"), ("host-b", "host-a")):
                assert (await intruder.tell(WRITE)).status is Status.RESERVATION_CONFLICT
                outcome = await set_up.orchestrator(source, destination).run(None)
                assert outcome.warnings == ()
                assert await set_up.registrants() == {destination: (KEY, True)}
                descriptor = (await set_up.full_status()).descriptors[0]
                assert descriptor.type is kind
                assert set_up.luns[0].state.aptpl
                assert (await intruder.tell(WRITE)).status is Status.RESERVATION_CONFLICT
                here, gone = set_up.guest_on(destination), set_up.guest_on(source)
                await here.must(WRITE)
                assert (await here.must(READ)).data_in == WRITE.data_out
                refused = await gone.tell(WRITE)
                assert refused.status is Status.CHECK_CONDITION

    asyncio.run(test())


def test_off_leaves_the_reservation_where_it_was(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, migrate_pr=("off", "off")) as set_up:
            await reserved(set_up)
            await set_up.orchestrator().run(None)
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            assert (await set_up.guest_on("host-b").tell(WRITE)).status is Status.RESERVATION_CONFLICT
            assert (await set_up.guest_on("host-a").tell(WRITE)).status is Status.CHECK_CONDITION

    asyncio.run(test())


def test_a_guest_that_reserved_nothing_moves_too(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.guest_on("host-a").must(WRITE)
            await set_up.orchestrator().run(None)
            assert await set_up.registrants() == {}
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


def test_many_luns_each_with_its_own_state(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=7) as set_up:
            for lun, kind in enumerate(ReservationType):
                guest = set_up.guest_on("host-a", lun)
                await guest.register(KEY + lun, aptpl=bool(lun % 2))
                await guest.reserve(kind, KEY + lun)
            await set_up.orchestrator().run(None)
            for lun, kind in enumerate(ReservationType):
                assert await set_up.registrants(lun) == {"host-b": (KEY + lun, True)}
                state = set_up.luns[lun].state
                assert state.reservation is not None
                assert (state.reservation.type, state.aptpl) == (kind, bool(lun % 2))
            assert await set_up.registrants(6) == {}

    asyncio.run(test())


@each_type
def test_a_third_node_with_the_same_key_is_not_touched(tmp_path: Path, kind: ReservationType) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register(aptpl=True)
            await reserved(set_up, kind)
            await set_up.orchestrator().run(None)
            shared = kind.all_registrants
            assert await set_up.registrants() == {"third": (KEY, shared), "host-b": (KEY, True)}
            allowed = kind.registrants_only or kind.all_registrants
            expected = Status.GOOD if allowed else Status.RESERVATION_CONFLICT
            assert (await third.tell(WRITE)).status is expected
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


@each_type
@pytest.mark.parametrize(
    "step", [Step.LEAVE, Step.REGISTER, Step.GIVE, Step.PREEMPT], ids=lambda step: step.value
)
def test_after_a_failure_the_guest_goes_on_on_the_source(
    tmp_path: Path, kind: ReservationType, step: Step
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            third = set_up.third()
            await third.register(aptpl=True)
            await reserved(set_up, kind)
            guest = set_up.guest_on("host-a")
            orchestrator = set_up.orchestrator()
            orchestrator.fail_after = step
            with pytest.raises(MigrateFailed, match=f"a failure after {step.value} was asked for") as failed:
                await orchestrator.run(None)
            assert not failed.value.in_doubt
            assert "goes on on host-a" in failed.value.now
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
            await set_up.clients["host-a"].step(GUEST, Step.LEAVE, "by hand", ())
            write = asyncio.create_task(guest.tell(WRITE))
            state = await set_up.clients["host-a"].guest(GUEST)
            while state.devices[0].held == 0:
                state = await set_up.clients["host-a"].guest(GUEST)
            assert state.devices[0].gate == "leaving"
            assert not write.done()
            await set_up.orchestrator().roll_back()
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
            source, destination = set_up.clients["host-a"], set_up.clients["host-b"]
            told = (await source.step(GUEST, Step.LEAVE, "h1", ())).devices
            told = (await destination.step(GUEST, Step.REGISTER, "h1", told)).devices
            told = (await source.step(GUEST, Step.GIVE, "h1", told)).devices
            await destination.step(GUEST, Step.PREEMPT, "h1", told)
            assert await set_up.registrants() == {"host-b": (KEY, True)}
            with pytest.raises(MigrateFailed, match="gate of disk0 is leaving"):
                await set_up.orchestrator().run(None)
            await set_up.orchestrator().roll_back()
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            await set_up.guest_on("host-a").must(WRITE)
            with pytest.raises(MigrateFailed, match="no handover of guest db1 is under way on host-a"):
                await set_up.orchestrator().roll_back()

    asyncio.run(test())


def test_a_handover_that_was_left_after_the_guest_had_moved_is_finished(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            source, destination = set_up.clients["host-a"], set_up.clients["host-b"]
            told = (await source.step(GUEST, Step.LEAVE, "h1", ())).devices
            told = (await destination.step(GUEST, Step.REGISTER, "h1", told)).devices
            with pytest.raises(MigrateFailed, match="the reservations have not moved"):
                await set_up.orchestrator().finish()
            told = (await source.step(GUEST, Step.GIVE, "h1", told)).devices
            await destination.step(GUEST, Step.PREEMPT, "h1", told)
            await set_up.orchestrator().finish()
            gates = [(await client.guest(GUEST)).devices[0].gate for client in set_up.clients.values()]
            assert gates == ["departed", "running"]
            assert await set_up.registrants() == {"host-b": (KEY, True)}

    asyncio.run(test())


@pytest.mark.parametrize("after", ["leave", "register", "give", "preempt"])
def test_an_interrupt_rolls_back(tmp_path: Path, after: str) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            orchestrator = set_up.orchestrator()
            moving = asyncio.ensure_future(orchestrator.run(None))

            def tell(progress: Progress) -> None:
                if (progress.action, progress.state) == (after, "begins"):
                    moving.cancel()

            orchestrator.tell = tell
            with pytest.raises(MigrateFailed, match="interrupted") as failed:
                await moving
            assert not failed.value.in_doubt
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            await set_up.guest_on("host-a").must(WRITE)

    asyncio.run(test())


def test_a_destination_that_dies_after_preempt_does_not_keep_the_reservation(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            await reserved(set_up)
            orchestrator = set_up.orchestrator()
            orchestrator.fail_after = Step.PREEMPT
            alive = orchestrator.destination
            step = alive.step

            class Dying(AgentClient):
                """Answers nothing after PREEMPT."""

                async def step(self, guest, what, handover, devices):  # type: ignore[no-untyped-def]
                    if what in (Step.CLOSE, Step.RETURN):
                        return await AgentClient("127.0.0.1:9").step(guest, what, handover, devices)
                    return await step(guest, what, handover, devices)

            orchestrator.destination = Dying(alive.api)
            with pytest.raises(MigrateFailed) as failed:
                await orchestrator.run(None)
            assert not failed.value.in_doubt
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            await set_up.guest_on("host-a").must(WRITE)
            assert "may be left on" in failed.value.now

    asyncio.run(test())


def test_different_settings_on_the_hosts_are_refused_before_anything_is_done(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, migrate_pr=("on", "off")) as set_up:
            await reserved(set_up)
            with pytest.raises(MigrateFailed, match=r"migrate-pr=on, host-b .* migrate-pr=off") as failed:
                await set_up.orchestrator().run(None)
            assert failed.value.now == "Nothing was changed."
            assert (await set_up.clients["host-a"].guest(GUEST)).devices[0].gate == "running"

    asyncio.run(test())


def test_a_guest_that_runs_on_the_destination_is_left_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            set_up.hosts["host-b"].guests[GUEST].devices[0].move_gate(
                set_up.hosts["host-a"].guests[GUEST].devices[0].block.gate
            )
            with pytest.raises(
                MigrateFailed, match="on host-b: the gate of disk0 is running; give it --incoming"
            ):
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
            with pytest.raises(MigrateFailed, match="registered on the LUN with another key") as failed:
                await set_up.orchestrator().run(None)
            # rolling back must not remove what was there before either
            assert await set_up.registrants() == {"host-a": (KEY, True), "host-b": (0xBAD, False)}
            assert "naa." in failed.value.reason
            assert not failed.value.in_doubt
            await set_up.guest_on("host-a").must(WRITE)

    asyncio.run(test())
