"""Handovers that do not go smoothly: who refuses, what the guest does meanwhile, what is lost on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from holdover.agent.guests.guest import HostedGuest
from holdover.api.client import AgentRefused
from holdover.api.documents import HandoverState
from holdover.config.agent_file import Limits
from holdover.guest.machine_type import MachineType
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.status import Status
from tests.agent.device_rig import Rig
from tests.agent.handover.moves import move, reserved
from tests.agent.hosts import GUEST, KEY, WRITE, Fate, Hook, San, san
from tests.rig.amounts import some

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=0.2)
UNHURRIED = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=600)
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
EAAR = ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS
NEW = 0xFEED


async def prepared(set_up: San, name: str = "h1") -> None:
    assert (await set_up.clients["host-a"].prepare(GUEST, name, set_up.apis["host-b"])).state == "prepared"


async def until(set_up: San, host: str, is_so: Callable[[HandoverState], bool]) -> HandoverState:
    state = await set_up.clients[host].handover(GUEST)
    if not is_so(state):
        await asyncio.sleep(0.05)
        return await until(set_up, host, is_so)
    return state


async def still_here(set_up: San) -> None:
    """The guest runs on host-a with what it had, host-b has nothing, and the next try goes through."""
    assert await set_up.registrants() == {"host-a": (KEY, True)}
    await set_up.guest_on("host-a").must(WRITE)
    assert (await set_up.clients["host-a"].guest(GUEST)).devices[0].gate == "running"
    assert not (await set_up.clients["host-a"].handover(GUEST)).open


def out_of(command: Command) -> OutServiceAction | None:
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return None
    return OutServiceAction(command.cdb[1] & 0x1F)


def strike(action: OutServiceAction, host: str, fate: Fate, times: int = 1) -> Hook:
    left = times

    async def hook(who: str, command: Command) -> Fate:
        nonlocal left
        if who == host and out_of(command) is action and left:
            left -= 1
            return fate
        return Fate.ANSWERED

    return hook


# -- refusals -------------------------------------------------------------------------------------


def test_a_destination_with_another_setting_refuses(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, migrate_pr=("on", "off"), limits=QUICK) as set_up:
            await reserved(set_up)
            with pytest.raises(
                AgentRefused, match="migrate-pr is on on the source and off on host-b"
            ) as refused:
                await prepared(set_up)
            assert (refused.value.problem.state, refused.value.problem.in_doubt) == ("stayed", False)
            await still_here(set_up)

    asyncio.run(test())


def test_a_destination_where_it_runs_refuses(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            there = set_up.hosts["host-b"].guests[GUEST]
            there.move_gates(set_up.hosts["host-a"].guests[GUEST].devices[0].block.gate)
            with pytest.raises(AgentRefused, match=r"is not expected on host-b: .* is running"):
                await prepared(set_up)
            await still_here(set_up)

    asyncio.run(test())


@pytest.mark.provokes("other-key")
def test_a_foreign_registration_on_its_nexus_refuses(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            device = set_up.hosts["host-b"].guests[GUEST].devices[0]
            register = out_command(OutServiceAction.REGISTER, 0, 0xBAD)
            assert (await device._path.execute(register)).status is Status.CHECK_CONDITION  # unit attention
            assert (await device._path.execute(register)).good
            with pytest.raises(
                AgentRefused, match="registered with a key that is not the guest's"
            ) as refused:
                await prepared(set_up)
            # what stands there is not the guest's, so it stays, and keeps nothing open
            assert not refused.value.problem.in_doubt
            assert refused.value.problem.state == "stayed"
            assert await set_up.registrants() == {"host-a": (KEY, True), "host-b": (0xBAD, False)}
            await set_up.guest_on("host-a").must(WRITE)
            assert (await device._path.execute(out_command(OutServiceAction.REGISTER, 0xBAD, 0))).good
            await still_here(set_up)

    asyncio.run(test())


def test_a_destination_that_is_not_there_leaves_nothing_open(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await set_up.stop("host-b")
            with pytest.raises(AgentRefused, match=r"is it running.*nothing was changed"):
                await prepared(set_up)
            await set_up.guest_on("host-a").must(WRITE)
            await set_up.start("host-b")
            await move(set_up)

    asyncio.run(test())


def test_nobody_leaves_from_where_it_is_not(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            with pytest.raises(
                AgentRefused, match="is incoming on host-b; a guest leaves from the host on which"
            ):
                await set_up.clients["host-b"].prepare(GUEST, "h1", set_up.apis["host-a"])

    asyncio.run(test())


def test_two_guests_of_one_host_are_handed_over_to_one_name_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(
            tmp_path, hosts=("host-a", "host-b", "host-c"), migrate_pr=("on",) * 3, limits=QUICK
        ) as set_up:
            await reserved(set_up)
            # the guest is taken for running on host-c too, which nobody but an operator can say
            there = set_up.hosts["host-c"].guests[GUEST]
            there.move_gates(set_up.hosts["host-a"].guests[GUEST].devices[0].block.gate)
            to = set_up.apis["host-b"]
            both = await asyncio.gather(
                set_up.clients["host-a"].prepare(GUEST, "h1", to),
                set_up.clients["host-c"].prepare(GUEST, "h2", to),
                return_exceptions=True,
            )
            refused = [each for each in both if isinstance(each, AgentRefused)]
            assert len(refused) == 1
            assert "under way on host-b" in str(refused[0])

    asyncio.run(test())


# -- the guest goes on ----------------------------------------------------------------------------


@pytest.mark.parametrize("wait", some([True, False], 2), ids=["later", "at-once"])
@pytest.mark.parametrize("what", ["key", "release", "type", "unregister", "register-again"])
def test_what_the_guest_changes_after_prepare_goes_along(tmp_path: Path, what: str, wait: bool) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await prepared(set_up)
            guest = set_up.guest_on("host-a")
            wanted: tuple[int, bool] | None = (KEY, True)
            if what == "key":
                await guest.must(out_command(OutServiceAction.REGISTER, KEY, NEW))
                wanted = (NEW, True)
            elif what == "unregister":
                await guest.must(out_command(OutServiceAction.REGISTER, KEY, 0))
                wanted = None
            elif what == "register-again":
                await guest.must(out_command(OutServiceAction.REGISTER, KEY, 0))
                await guest.register(NEW)
                wanted = (NEW, False)
            else:
                await guest.must(out_command(OutServiceAction.RELEASE, KEY, type=WERO))
                wanted = (KEY, False)
                if what == "type":
                    await guest.reserve(EAAR)
                    wanted = (KEY, True)
            if wait:
                await asyncio.sleep(0.5)
            client = set_up.clients["host-a"]
            assert (await client.commit(GUEST, "h1")).state == "committed"
            await client.finish(GUEST, "h1")
            assert await set_up.registrants() == ({} if wanted is None else {"host-b": wanted})
            held = set_up.luns[0].state.reservation
            kind = {"key": WERO, "type": EAAR}.get(what)
            assert (held.type if held is not None else None) is kind
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


def test_a_guest_that_changes_its_key_again_and_again_is_handed_over(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=3, limits=QUICK) as set_up:
            for lun in range(3):
                guest = set_up.guest_on("host-a", lun)
                await guest.register()
                await guest.reserve(WERO)

            async def change(lun: int) -> int:
                guest, key = set_up.guest_on("host-a", lun), KEY
                for _ in range(8):
                    await guest.must(out_command(OutServiceAction.REGISTER, key, key + 1))
                    key += 1
                    await asyncio.sleep(0.02 * (lun + 1))
                return key

            changing = [asyncio.create_task(change(lun)) for lun in range(3)]
            client = set_up.clients["host-a"]
            await prepared(set_up)
            keys = await asyncio.gather(*changing)
            assert (await client.commit(GUEST, "h1")).state == "committed"
            await client.finish(GUEST, "h1")
            for lun, key in enumerate(keys):
                assert await set_up.registrants(lun) == {"host-b": (key, True)}

    asyncio.run(test())


def test_a_guest_that_was_fenced_moves_as_it_is(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=UNHURRIED) as set_up:
            third = set_up.third()
            await third.register(0xBEEF)
            await reserved(set_up)
            await prepared(set_up)
            await third.must(out_command(OutServiceAction.PREEMPT, 0xBEEF, KEY, type=WERO))
            assert await set_up.registrants() == {"third": (0xBEEF, True)}
            client = set_up.clients["host-a"]
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert await set_up.registrants() == {"third": (0xBEEF, True)}
            assert (await client.finish(GUEST, "h1")).state == "gone"
            await move(set_up, "host-b", "host-a", name="h2")
            assert await set_up.registrants() == {"third": (0xBEEF, True)}

    asyncio.run(test())


# -- what is lost on the way ----------------------------------------------------------------------


@pytest.mark.parametrize("fate", some([Fate.UNANSWERED, Fate.LOST], 2), ids=["unanswered", "lost"])
@pytest.mark.parametrize("shared", [False, True], ids=["alone", "shared"])
@pytest.mark.parametrize(
    ("host", "action"),
    [
        ("host-b", OutServiceAction.REGISTER),
        ("host-b", OutServiceAction.PREEMPT),
        ("host-a", OutServiceAction.REGISTER),
    ],
    ids=["register", "preempt", "source"],
)
def test_a_connection_that_is_cut_changes_nothing(
    tmp_path: Path, host: str, action: OutServiceAction, shared: bool, fate: Fate
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            if shared:
                await set_up.third().register(aptpl=True)
            await reserved(set_up)
            set_up.hook(strike(action, host, fate))
            await move(set_up)
            wanted = {"host-b": (KEY, True)} | ({"third": (KEY, False)} if shared else {})
            assert await set_up.registrants() == wanted

    asyncio.run(test())


def test_a_lun_that_hangs_fails_its_handover_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await reserved(set_up)
            await prepared(set_up)
            released = asyncio.Event()

            async def hook(who: str, command: Command) -> Fate:
                if who == "host-b" and out_of(command) is OutServiceAction.PREEMPT:
                    await released.wait()
                return Fate.ANSWERED

            set_up.hook(hook)
            client = set_up.clients["host-a"]
            asked = asyncio.create_task(client.commit(GUEST, "h1"))
            await until(set_up, "host-a", lambda state: state.state == "closing")
            # the agents answer everything else meanwhile
            assert (await set_up.clients["host-b"].handover(GUEST)).handover_id == "h1"
            released.set()
            with pytest.raises(AgentRefused, match="the LUN has not answered within 2 s") as refused:
                await asked
            assert refused.value.problem.state == "stayed"
            await still_here(set_up)

    asyncio.run(test())


def test_a_handover_that_is_prepared_for_too_long_is_rolled_back(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=0.1, handover=0.3)
        async with san(tmp_path, limits=limits) as set_up:
            await reserved(set_up)
            await prepared(set_up)
            state = await until(set_up, "host-a", lambda state: not state.open)
            assert "longer than 0.3 s" in state.reason
            await still_here(set_up)

    asyncio.run(test())


def test_looking_again_leaves_no_trace(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=0.02)
        async with san(tmp_path, limits=limits) as set_up:
            await reserved(set_up)
            await prepared(set_up)
            steps = len(set_up.journals["host-a"].steps("h1"))
            looked = asyncio.Semaphore(0)

            async def hook(who: str, command: Command) -> Fate:
                if who == "host-a" and command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
                    looked.release()
                return Fate.ANSWERED

            set_up.hook(hook)
            for _ in range(10):
                await looked.acquire()
            spans = len((await set_up.clients["host-a"].handover(GUEST)).spans)
            assert len(set_up.journals["host-a"].steps("h1")) == steps
            for _ in range(30):
                await looked.acquire()
            assert len((await set_up.clients["host-a"].handover(GUEST)).spans) < spans + 15
            assert (await set_up.clients["host-a"].commit(GUEST, "h1")).state == "committed"

    asyncio.run(test())


def test_commit_does_not_wait_for_a_look_that_hangs(tmp_path: Path) -> None:
    async def test() -> None:
        limits = Limits(connect=2, step=30, drain=2, peer=3, give_up=1, recheck=0.05)
        async with san(tmp_path, luns=2, limits=limits) as set_up:
            for lun in range(2):
                guest = set_up.guest_on("host-a", lun)
                await guest.register()
                await guest.reserve(WERO)
            await prepared(set_up)
            looking, committed = asyncio.Event(), asyncio.Event()
            held = set_up.served[1]

            async def hook(who: str, command: Command) -> Fate:
                if who == "host-a" and command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
                    looking.set()
                    await committed.wait()
                return Fate.ANSWERED

            held.hook = hook
            await looking.wait()
            assert (await set_up.clients["host-a"].handover(GUEST)).state == "prepared"
            assert (await set_up.clients["host-a"].commit(GUEST, "h1")).state == "committed"
            committed.set()

    asyncio.run(test())


@pytest.mark.parametrize("host", ["host-a", "host-b"])
def test_two_guests_of_one_host_as_one_nexus_stay_where_they_are(tmp_path: Path, host: str) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            # as if both had come through the helper's socket with the host's own disk
            guests = set_up.hosts[host].guests
            device = guests[GUEST].devices[0]
            disturbing = Rig().device
            disturbing.recall_designator(set_up.luns[0].designator)
            disturbing.block.adopt(Tracked(0xBAD))
            device.sole_nexus = False
            other = HostedGuest(
                "db2", host, MachineType.parse("q35"), [disturbing], None, guests[GUEST].limits
            )
            guests["db2"] = other
            before = set_up.luns[0].state
            with pytest.raises(
                AgentRefused, match=f"guest db2 of {host} is registered .* guest db1"
            ) as error:
                await prepared(set_up)
            assert not error.value.problem.in_doubt
            assert set_up.luns[0].state == before or host == "host-b"
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            del guests["db2"]

    asyncio.run(test())


def test_a_journal_that_refuses_holds_everything_up_and_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await prepared(set_up)
            journal = set_up.journals["host-a"]
            await journal.inner.close()
            with pytest.raises(AgentRefused, match=r"journal .*it is closed; open it again") as error:
                await set_up.clients["host-a"].commit(GUEST, "h1")
            assert (error.value.problem.state, error.value.problem.in_doubt) == ("prepared", False)
            assert await set_up.registrants() == {"host-a": (KEY, True), "host-b": (KEY, False)}
            journal.inner._closed = False
            await until(set_up, "host-a", lambda state: state.state == "committed" and not state.problem)
            assert await set_up.registrants() == {"host-b": (KEY, True)}

    asyncio.run(test())
