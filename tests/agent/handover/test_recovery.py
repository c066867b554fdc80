"""An agent dies before or after any write of its journal, and is started anew: one host holds everything."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path

import msgspec
import pytest

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.documents import HandoverState
from holdover.config.agent_file import Limits
from holdover.handover.protocol import Answered
from holdover.handover.states import MessageKind
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.key import key_text
from holdover.scsi.status import Status
from tests.agent.handover.moves import move, reserved
from tests.agent.handover.test_incoming import hears
from tests.agent.hosts import GUEST, KEY, WRITE, Fate, San, san
from tests.rig.amounts import amount

QUICK = Limits(connect=2, step=5, drain=2, peer=5, give_up=1, recheck=0.3)
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
RESTS = ("prepared", "committed")


@asynccontextmanager
async def intruder(set_up: San) -> AsyncGenerator[None, None]:
    """Somebody writes all the time, and is refused all the time."""
    enemy = set_up.third("intruder")

    async def write() -> None:
        while True:
            assert (await enemy.tell(WRITE)).status is Status.RESERVATION_CONFLICT
            await asyncio.sleep(0.001)

    task = asyncio.create_task(write())
    try:
        yield
        assert not task.done(), "an intruder's write was carried out"
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def go(set_up: San, until: str) -> None:
    """What an orchestrator asks for, as far as ``until``."""
    client = set_up.clients["host-a"]
    with contextlib.suppress(AgentError):
        await client.prepare(GUEST, "h1", set_up.apis["host-b"])
        await client.commit(GUEST, "h1")
        if until == "gone":
            await client.finish(GUEST, "h1")
        else:
            await client.roll_back(GUEST, "h1")


async def at_rest(client: AgentClient) -> HandoverState | None:
    """The newest handover when nothing goes on in it by itself any more."""
    while True:
        state = None
        with contextlib.suppress(AgentRefused):  # the guest has not been handed over
            state = await client.handover(GUEST)
        if state is None or not state.open or state.state in RESTS:
            return state
        await asyncio.sleep(0.02)


async def end(set_up: San, until: str) -> str:
    """Bring the handover to an end, from wherever it is; the host that the guest is on then."""
    client = set_up.clients["host-a"]
    state = await at_rest(client)
    if state is not None and state.open:
        if until == "stayed":
            await client.roll_back(GUEST, "h1")
        else:
            try:
                if state.state == "prepared":
                    await client.commit(GUEST, "h1")
                await client.finish(GUEST, "h1")
            except AgentRefused as refused:
                # with its key on a third nexus too, what has gone stale meanwhile may not be told from the
                # LUN: then the guest stays, with everything that it had
                told = "It is not known whether it is the guest's" in str(refused)
                if not told or refused.problem.state != "stayed":
                    raise
        state = await at_rest(client)
    if state is None:
        return "host-a"
    assert not state.open
    return {"stayed": "host-a", "gone": "host-b"}[state.state]


async def released(set_up: San) -> None:
    """Wait until no host has anything left to do."""
    is_open = True
    while is_open:
        await asyncio.sleep(0.02)
        states = [host.handovers.state(GUEST) for host in set_up.hosts.values()]
        is_open = any(state is not None and state.open for state in states)


async def check(set_up: San, here: str, kind: ReservationType | None, *, shared: bool) -> None:
    gone = {"host-a": "host-b", "host-b": "host-a"}[here]
    wanted = {here: (KEY, kind is not None)}
    if shared:
        wanted["third"] = (KEY, kind is not None and kind.all_registrants)
    assert await set_up.registrants() == wanted
    gates = await set_up.gates()
    assert gates[here] == "running"
    assert gates[gone] in ("incoming", "departed")
    await set_up.guest_on(here).must(WRITE)
    states = [(await client.guest(GUEST)).devices[0] for client in set_up.clients.values()]
    tracked = {state.gate: (state.key, state.type) for state in states}
    assert tracked.pop("running") == (key_text(KEY), kind)
    assert list(tracked.values()) == [(None, None)]


async def one_death(
    folder: Path,
    host: str,
    number: int,
    *,
    after: bool,
    until: str,
    kind: ReservationType | None,
    shared: bool,
) -> bool:
    """Whether the agent died at all."""
    async with san(folder, limits=QUICK) as set_up:
        if shared:
            await set_up.third().register(aptpl=True)
        guest = set_up.guest_on("host-a")
        await guest.register(aptpl=True)
        if kind is not None:
            await guest.reserve(kind)
        journal = set_up.journals[host]
        held = intruder(set_up) if kind is not None else contextlib.nullcontext()
        async with held:
            journal.arm(number, after=after)
            asked = asyncio.create_task(go(set_up, until))
            death = asyncio.create_task(journal.dead.wait())
            await asyncio.wait([asked, death], return_when=asyncio.FIRST_COMPLETED)
            died = journal.dead.is_set()
            if died:
                await set_up.stop(host)
                journal.arm(0, after=False)
                await asked
                await set_up.start(host)
            here = await end(set_up, until)
            await released(set_up)
            death.cancel()
        await check(set_up, here, kind, shared=shared)
        return died


KINDS = {
    "alone": (WERO, False),
    "shared": (WERO, True),
    "all-registrants": (ReservationType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS, False),
    "registered": (None, False),
}
"""What the guest is on its LUN, and whether a third nexus has its key."""


BRIEF = {
    ("host-a", "before", "gone", "shared"),
    ("host-b", "after", "stayed", "all-registrants"),
}
"""The cases of `make test`: each host, instant and end is in one of them."""


@pytest.mark.parametrize(
    ("host", "when", "until", "kind"),
    [
        pytest.param(*case, marks=() if case in BRIEF else pytest.mark.long)
        for case in product(("host-a", "host-b"), ("before", "after"), ("gone", "stayed"), KINDS)
    ],
)
def test_death_at_every_write(tmp_path: Path, host: str, when: str, until: str, kind: str) -> None:
    type_, shared = KINDS[kind]
    number, died = 0, True
    while died:
        number += amount(3, 1)
        folder = tmp_path / str(number)
        folder.mkdir()
        died = asyncio.run(
            one_death(folder, host, number, after=when == "after", until=until, kind=type_, shared=shared)
        )
    assert number > 3


def test_states_of_both_sides_are_restored(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            before = await client.handover(GUEST)
            for host in ("host-a", "host-b"):
                await set_up.stop(host)
                await set_up.start(host)
            await set_up.hosts["host-a"].handovers.settled(GUEST)
            after = await client.handover(GUEST)
            parts = ("handover_id", "peer", "role", "state", "luns")
            assert [msgspec.to_builtins(getattr(after, part)) for part in parts] == [
                msgspec.to_builtins(getattr(before, part)) for part in parts
            ]
            await client.commit(GUEST, "h1")
            for host in ("host-a", "host-b"):
                await set_up.stop(host)
                await set_up.start(host)
            assert await set_up.gates() == {"host-a": "leaving", "host-b": "running"}
            await client.finish(GUEST, "h1")
            for host in ("host-a", "host-b"):
                await set_up.stop(host)
                await set_up.start(host)
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}
            state = await set_up.clients["host-b"].guest(GUEST)
            assert (state.devices[0].key, state.devices[0].type) == (key_text(KEY), WERO)
            assert (await set_up.guest_on("host-a").tell(WRITE)).status is Status.CHECK_CONDITION

    asyncio.run(test())


def test_a_guests_commands_wait_while_the_agent_still_looks_what_its_luns_are(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")
            await set_up.stop("host-a")
            written = []

            async def hang(host: str, command: Command) -> Fate:
                if host == "host-a" and command == WRITE:
                    written.append(command)
                elif host == "host-a":
                    await asyncio.get_running_loop().create_future()
                return Fate.ANSWERED

            set_up.hook(hang)
            await set_up.start("host-a")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(set_up.guest_on("host-a").tell(WRITE), 0.3)
            assert not written
            assert (await set_up.gates())["host-a"] == "leaving"

    asyncio.run(test())


def test_a_guest_departs_also_while_its_lun_does_not_answer(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")

            async def away(host: str, _: Command) -> Fate:
                return Fate.LOST if host == "host-a" else Fate.ANSWERED

            set_up.hook(away)
            await set_up.stop("host-a")
            await set_up.start("host-a")
            with contextlib.suppress(AgentRefused):
                await client.finish(GUEST, "h1")
            await released(set_up)
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}

    asyncio.run(test())


def test_the_gates_of_a_guest_whose_reservations_do_not_move_are_on_record(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, migrate_pr=("off", "off"), limits=QUICK) as set_up:
            await set_up.guest_on("host-a").must(WRITE)
            client = set_up.clients["host-a"]
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            await client.commit(GUEST, "h1")
            await set_up.stop("host-b")
            # its LUN was not known yet when the gate moved
            journal = set_up.journals["host-b"]
            await journal.forget(*((each.guest, each.designator) for each in journal.load().devices))
            await set_up.start("host-b")
            while not journal.load().devices:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
            await client.finish(GUEST, "h1")
            for host in ("host-a", "host-b"):
                await set_up.stop(host)
                await set_up.start(host)
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


def test_a_device_without_a_record_has_the_gate_of_its_last_handover(tmp_path: Path) -> None:
    """Its LUN has never answered."""

    async def test() -> None:
        async with san(tmp_path, migrate_pr=("off", "off"), limits=QUICK) as set_up:
            await set_up.guest_on("host-a").must(WRITE)
            await move(set_up)
            for host in ("host-a", "host-b"):
                await set_up.stop(host)
                journal = set_up.journals[host]
                await journal.forget(*((each.guest, each.designator) for each in journal.load().devices))
                await set_up.start(host)
            assert await set_up.gates() == {"host-a": "departed", "host-b": "running"}
            await set_up.guest_on("host-b").must(WRITE)

    asyncio.run(test())


def test_a_handover_that_never_began_moves_no_gate(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            await move(set_up)
            for number in (1, 2):
                answer = await hears(set_up, "host-b", MessageKind.RETURN, "never", GUEST, number=number)
                assert answer.kind is Answered.DONE
                await set_up.stop("host-b")
                await set_up.start("host-b")
                assert (await set_up.gates())["host-b"] == "running"
            answer = await hears(set_up, "host-b", MessageKind.PREPARE, "never", GUEST, number=3)
            assert answer.kind is Answered.REFUSED
            await move(set_up, "host-b", "host-a", "h2")

    asyncio.run(test())
