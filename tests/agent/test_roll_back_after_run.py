"""A guest that changed its registration or reservation on the destination, and is rolled back after that."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdover.api.client import AgentRefused
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.status import Status
from tests.agent.handover.test_trouble import QUICK, until
from tests.agent.hosts import GUEST, KEY, WRITE, Fate, Initiator, San, san
from tests.rig.amounts import amount, some

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
EXCLUSIVE = ReservationType.WRITE_EXCLUSIVE
ALL = ReservationType.WRITE_EXCLUSIVE_ALL_REGISTRANTS
NINE, N1 = 0x9, 0xBEEF
_S = OutServiceAction

Act = Callable[[Initiator, Initiator], Awaitable[None]]
"""What the guest, and the third node n1, do."""


async def nothing(_: Initiator, __: Initiator) -> None:
    pass


async def registers(guest: Initiator, _: Initiator) -> None:
    await guest.register(aptpl=True)


async def holds(guest: Initiator, _: Initiator) -> None:
    await guest.register(aptpl=True)
    await guest.reserve(WERO)


async def holds_with_all(guest: Initiator, _: Initiator) -> None:
    await guest.register(aptpl=True)
    await guest.reserve(ALL)


async def n1_holds(guest: Initiator, n1: Initiator) -> None:
    await n1.register(N1, aptpl=True)
    await n1.reserve(WERO, N1)
    await guest.register(aptpl=True)


async def preempts(guest: Initiator, _: Initiator) -> None:
    await guest.must(out_command(_S.PREEMPT, KEY, N1, type=WERO))


async def reserves_after_n1(guest: Initiator, n1: Initiator) -> None:
    await n1.must(out_command(_S.RELEASE, N1, type=WERO))
    await guest.reserve(WERO)


async def changes_key(guest: Initiator, _: Initiator) -> None:
    await guest.must(out_command(_S.REGISTER, KEY, NINE, aptpl=True))


async def changes_key_to_n1s(guest: Initiator, n1: Initiator) -> None:
    await n1.register(N1, aptpl=True)
    await guest.must(out_command(_S.REGISTER, KEY, N1, aptpl=True))


async def releases(guest: Initiator, _: Initiator) -> None:
    await guest.must(out_command(_S.RELEASE, KEY, type=WERO))


async def takes_another_type(guest: Initiator, _: Initiator) -> None:
    await guest.must(out_command(_S.RELEASE, KEY, type=WERO))
    await guest.reserve(EXCLUSIVE)


async def reserves(guest: Initiator, _: Initiator) -> None:
    await guest.reserve(WERO)


async def unregisters(guest: Initiator, _: Initiator) -> None:
    await guest.must(out_command(_S.REGISTER, KEY, 0, aptpl=True))


async def turns_aptpl_off(guest: Initiator, _: Initiator) -> None:
    await guest.must(out_command(_S.REGISTER, KEY, KEY, aptpl=False))


async def registers_without_aptpl(guest: Initiator, _: Initiator) -> None:
    await guest.register()


async def turns_aptpl_on(guest: Initiator, _: Initiator) -> None:
    await guest.must(out_command(_S.REGISTER, KEY, KEY, aptpl=True))


async def is_fenced(_: Initiator, n1: Initiator) -> None:
    await n1.register(N1, aptpl=True)
    await n1.must(out_command(_S.PREEMPT, N1, KEY, type=WERO))


HERE, THIRD = "host-a", "third"
ROWS = [
    pytest.param(n1_holds, preempts, {HERE: (KEY, True)}, id="preempts the holder"),
    pytest.param(
        n1_holds, reserves_after_n1, {THIRD: (N1, False), HERE: (KEY, True)}, id="reserves after a release"
    ),
    pytest.param(nothing, registers, {HERE: (KEY, False)}, id="registers"),
    pytest.param(nothing, holds, {HERE: (KEY, True)}, id="registers and reserves"),
    pytest.param(registers, changes_key, {HERE: (NINE, False)}, id="a registrant changes its key"),
    pytest.param(holds, changes_key, {HERE: (NINE, True)}, id="the holder changes its key"),
    pytest.param(holds, releases, {HERE: (KEY, False)}, id="releases"),
    pytest.param(
        holds, changes_key_to_n1s, {THIRD: (N1, False), HERE: (N1, True)}, id="a key that another node has"
    ),
    pytest.param(holds, takes_another_type, {HERE: (KEY, True)}, id="takes another type"),
    pytest.param(holds_with_all, changes_key, {HERE: (NINE, True)}, id="all registrants"),
    pytest.param(holds, unregisters, {}, id="unregisters"),
    pytest.param(holds, turns_aptpl_off, {HERE: (KEY, True)}, id="turns APTPL off"),
    pytest.param(registers_without_aptpl, turns_aptpl_on, {HERE: (KEY, False)}, id="turns APTPL on"),
    pytest.param(holds, is_fenced, {THIRD: (N1, True)}, id="is fenced"),
]


async def runs_on_the_destination(set_up: San, before: Act, there: Act) -> None:
    """The guest has what ``before`` leaves, is committed to host-b, and does ``there`` what it does."""
    n1 = set_up.third()
    await before(set_up.guest_on("host-a"), n1)
    client = set_up.clients["host-a"]
    await client.prepare(GUEST, "h1", set_up.apis["host-b"])
    await client.commit(GUEST, "h1")
    await there(set_up.guest_on("host-b"), n1)


async def check(set_up: San, before: Act, there: Act, wanted: dict[str, tuple[int, bool]]) -> None:
    """All of it is on host-a, as on a LUN whose guest did the same without having been moved."""
    assert await set_up.registrants() == wanted
    guest, n1 = set_up.third("unmoved", 1), set_up.third("third", 1)
    await before(guest, n1)
    await there(guest, n1)
    moved, unmoved = (lun.state for lun in set_up.luns)
    assert moved.aptpl == unmoved.aptpl
    held, held_there = moved.reservation, unmoved.reservation
    assert (held and held.type) == (held_there and held_there.type)
    stranger = set_up.third("stranger")
    outcome = (await set_up.third("stranger", 1).tell(WRITE)).status
    assert (await stranger.tell(WRITE)).status is outcome
    outcome = (await guest.tell(WRITE)).status
    assert (await set_up.guest_on("host-a").tell(WRITE)).status is outcome
    device = (await set_up.clients["host-a"].guest(GUEST)).devices[0]
    assert (int(device.key or "0", 16), device.gate) == (wanted.get(HERE, (0, False))[0], "running")
    assert await set_up.gates() == {"host-a": "running", "host-b": "incoming"}


@pytest.mark.parametrize(("before", "there", "wanted"), ROWS)
def test_what_the_guest_did_on_the_destination_comes_back_with_it(
    tmp_path: Path, before: Act, there: Act, wanted: dict[str, tuple[int, bool]]
) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2) as set_up:
            await runs_on_the_destination(set_up, before, there)
            assert (await set_up.clients["host-a"].roll_back(GUEST, "h1")).state == "stayed"
            await check(set_up, before, there, wanted)

    asyncio.run(test())


_LATER = [pytest.param(*row.values, id=row.id, marks=pytest.mark.long) for row in (ROWS[3], ROWS[5], ROWS[6])]


@pytest.mark.parametrize(("before", "there", "wanted"), [ROWS[0], *_LATER])
@pytest.mark.parametrize(
    ("after", "victim"),
    some([(False, "host-a"), (True, "host-a"), (True, "host-b"), (False, "host-b")], 2),
)
def test_it_comes_back_whichever_agent_dies_on_the_way(
    tmp_path: Path, before: Act, there: Act, wanted: dict[str, tuple[int, bool]], after: bool, victim: str
) -> None:
    async def one(folder: Path, number: int) -> bool:
        async with san(folder, luns=2, limits=QUICK) as set_up:
            await runs_on_the_destination(set_up, before, there)
            journal, client = set_up.journals[victim], set_up.clients["host-a"]
            journal.arm(number, after=after)
            asked = asyncio.create_task(client.roll_back(GUEST, "h1"))
            death = asyncio.create_task(journal.dead.wait())
            await asyncio.wait([asked, death], return_when=asyncio.FIRST_COMPLETED)
            died = journal.dead.is_set()
            if died:
                await set_up.stop(victim)
                journal.arm(0, after=False)
                await set_up.start(victim)
            await asyncio.gather(asked, return_exceptions=True)
            death.cancel()
            state = await until(set_up, "host-a", lambda state: not state.open or state.state == "committed")
            if state.open:
                await client.roll_back(GUEST, "h1")
            await until(set_up, "host-b", lambda state: not state.open)
            await check(set_up, before, there, wanted)
            return died

    async def test() -> None:
        number = 1
        while True:
            folder = tmp_path / str(number)
            folder.mkdir()
            if not await one(folder, number):
                return
            number += amount(3, 1)

    asyncio.run(test())


def test_a_destination_that_cannot_ask_the_lun_is_asked_again(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await runs_on_the_destination(set_up, holds, changes_key)
            cut = asyncio.Event()

            async def hook(host: str, command: Command) -> Fate:
                if host == "host-b" and command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
                    cut.set()
                    return Fate.LOST
                return Fate.ANSWERED

            set_up.hook(hook)
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused) as refused:
                await client.roll_back(GUEST, "h1")
            assert (refused.value.problem.state, refused.value.problem.in_doubt) == ("closing", True)
            assert cut.is_set()
            assert (await set_up.clients["host-b"].handover(GUEST)).state in ("ascertaining", "halted")
            set_up.hook(None)
            await until(set_up, "host-a", lambda state: not state.open)
            await check(set_up, holds, changes_key, {HERE: (NINE, True)})

    asyncio.run(test())


def test_a_lost_answer_on_the_destination_is_found_out(tmp_path: Path) -> None:
    """The device there does not know which of two keys the guest has when its gate is shut."""

    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await runs_on_the_destination(set_up, holds, nothing)

            async def hook(host: str, command: Command) -> Fate:
                # what would read it again by itself is lost too
                return Fate.UNANSWERED if host == "host-b" else Fate.ANSWERED

            set_up.hook(hook)
            change = out_command(_S.REGISTER, KEY, NINE, aptpl=True)
            assert (await set_up.guest_on("host-b").tell(change)).status is Status.CHECK_CONDITION
            asked = asyncio.create_task(set_up.clients["host-a"].roll_back(GUEST, "h1"))
            await until(set_up, "host-b", lambda state: state.state in ("ascertaining", "halted"))
            set_up.hook(None)
            await asyncio.gather(asked, return_exceptions=True)
            await until(set_up, "host-a", lambda state: not state.open)
            await check(set_up, holds, changes_key, {HERE: (NINE, True)})

    asyncio.run(test())


REFUSED = [
    pytest.param(holds, changes_key, "key 0xc0ffee, which was committed, is gone, and 0x9", id="another key"),
    pytest.param(holds, releases, "the reservation is now: none", id="released"),
    pytest.param(holds, takes_another_type, "the reservation is now: WE with key", id="another type"),
    pytest.param(registers, reserves, "the guest's is now: WERO", id="reserved"),
    pytest.param(nothing, registers, "the guest is not registered here", id="registered"),
]


@pytest.mark.parametrize(("before", "there", "told"), REFUSED)
@pytest.mark.parametrize(
    "alone", [pytest.param(False, id="by itself", marks=pytest.mark.long), pytest.param(True, id="asked for")]
)
def test_without_the_destination_the_old_picture_is_refused_by_name(
    tmp_path: Path, before: Act, there: Act, told: str, alone: bool
) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await runs_on_the_destination(set_up, before, there)
            was = await set_up.registrants()
            await set_up.stop("host-b")
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused) as refused:
                await client.roll_back(GUEST, "h1")
            if alone:
                with pytest.raises(AgentRefused) as refused:
                    await client.roll_back(GUEST, "h1", alone=True)
            assert told.lower() in str(refused.value).lower()
            assert "holdover handover rollback --alone" in str(refused.value)
            assert refused.value.problem.state == "closing"
            assert await set_up.registrants() == was
            # it goes on saying so while it tries to reach the destination
            state = await until(set_up, "host-a", lambda state: "cannot roll back without" in state.problem)
            assert told.lower() in state.problem.lower()
            await set_up.start("host-b")
            await until(set_up, "host-a", lambda state: not state.open)
            key = NINE if there is changes_key else KEY
            held = there in (takes_another_type, changes_key, reserves)
            await check(set_up, before, there, {HERE: (key, held)})

    asyncio.run(test())


def test_what_the_operator_has_removed_does_not_come_back(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await runs_on_the_destination(set_up, holds, changes_key)
            await set_up.stop("host-b")
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused, match="is gone, and 0x9"):
                await client.roll_back(GUEST, "h1")
            operator = set_up.third("operator")
            await operator.register(N1)
            await operator.must(out_command(_S.PREEMPT, N1, NINE, type=WERO))
            await operator.must(out_command(_S.RELEASE, N1, type=WERO))
            await operator.must(out_command(_S.REGISTER, N1, 0))
            assert (await client.roll_back(GUEST, "h1", alone=True)).state == "stayed"
            assert await set_up.registrants() == {}
            await set_up.start("host-b")
            await until(set_up, "host-b", lambda state: not state.open)
            assert await set_up.registrants() == {}

    asyncio.run(test())


def test_it_is_rolled_back_alone_where_the_guest_did_nothing_there(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await runs_on_the_destination(set_up, holds, nothing)
            await set_up.stop("host-b")
            assert (await set_up.clients["host-a"].roll_back(GUEST, "h1")).state == "stayed"
            await set_up.start("host-b")
            await until(set_up, "host-b", lambda state: not state.open)
            await check(set_up, holds, nothing, {HERE: (KEY, True)})

    asyncio.run(test())


@pytest.mark.parametrize("there", [changes_key, releases], ids=["another key", "released"])
def test_a_take_after_that_takes_what_the_guest_has(tmp_path: Path, there: Act) -> None:
    """The source dies after the destination has shut its gate, whether the source has heard of it or not."""

    async def test() -> None:
        async with san(tmp_path, luns=2, limits=QUICK) as set_up:
            await runs_on_the_destination(set_up, holds, there)
            journal = set_up.journals["host-a"]
            journal.arm(2, after=False)
            asked = asyncio.create_task(set_up.clients["host-a"].roll_back(GUEST, "h1"))
            await journal.dead.wait()
            await set_up.stop("host-a")
            await asyncio.gather(asked, return_exceptions=True)
            journal.arm(0, after=False)
            client = set_up.clients["host-b"]
            await until(set_up, "host-b", lambda state: state.state == "closed")
            assert (await client.take(GUEST, "h1")).state == "taken"
            wanted = {"host-b": (NINE, True) if there is changes_key else (KEY, False)}
            assert await set_up.registrants() == wanted
            device = (await client.guest(GUEST)).devices[0]
            assert (int(device.key or "0", 16), device.gate) == (wanted["host-b"][0], "running")
            await set_up.start("host-a")
            await until(set_up, "host-a", lambda state: not state.open)
            assert await set_up.registrants() == wanted

    asyncio.run(test())
