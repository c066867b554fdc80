"""Agents as real processes, killed at each state that they write, and targets that cut a PREEMPT off.

All the while a third initiator that has registered nothing writes, and must never be let in. In the end one
host has everything that the guest had, and the other nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from holdover.api.client import AgentError, AgentRefused
from holdover.api.documents import HandoverState
from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.key import key_text
from holdover.scsi.reservation.reservation_in import FullStatus
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import describe_response, is_unit_attention
from holdover.scsi.status import Status
from tests.rig.agents import HOSTS, RealAgent, real_agents
from tests.rig.amounts import some
from tests.rig.processes import Rig, Target
from tests.rig.site import Intruder

GUEST = "db1"
KEY = 0xC0FFEE
KIND = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
HANDOVER = "h1"
WRITE = Command(Write(8, 8, 10).encode(), b"guest" * 819 + b"\0")
RESTS = ("prepared", "committed")

GOING = {
    "source": [
        *("checking", "preparing", "confirming", "prepared", "leaving", "giving", "committing", "committed"),
        *("settling", "telling", "gone"),
    ],
    "destination": ["registering", "prepared", "preempting", "committed", "verifying", "here"],
}
"""States of a handover that ends on the destination."""

BACK = {
    "source": ["closing", "asking", "reclaiming", "returning", "resuming", "stayed"],
    "destination": ["ascertaining", "closed", "returning", "returned"],
}
"""States of one that is rolled back after the commit."""

DEATHS = [
    (role, state, until, "after")
    for paths, until in ((GOING, "gone"), (BACK, "stayed"))
    for role, states in paths.items()
    for state in states
]
# what is not on disk has not happened: the same as after the state before, where it matters most
DEATHS += [
    ("source", "committing", "gone", "before"),
    ("source", "committed", "gone", "before"),
    ("source", "resuming", "stayed", "before"),
    ("destination", "preempting", "gone", "before"),
    ("destination", "committed", "gone", "before"),
]


class Scene:
    """A target, two agents, the guest's commands, and an intruder."""

    def __init__(self, rig: Rig, target: Target) -> None:
        self.target = target
        self.agents = real_agents(rig, GUEST, [target.url()])
        self._sessions = IscsiSessions()

    @property
    def source(self) -> RealAgent:
        return self.agents[HOSTS[0]]

    @property
    def destination(self) -> RealAgent:
        return self.agents[HOSTS[1]]

    async def tell(self, name: str, url: str, command: Command) -> Response:
        identity = InitiatorIdentity(f"iqn.2026-11.org.holdover:{name}", isid_of(name))
        path = self._sessions.path(parse_iscsi_url(url), identity)
        try:
            while is_unit_attention(response := await path.execute(command)):
                pass
        finally:
            await path.close()
        return response

    async def guest(self, host: str, command: Command) -> Response:
        """A command of the guest's QEMU on a host."""
        return await self.tell("qemu", self.agents[host].url(), command)

    async def reserve(self) -> None:
        for command in (
            out_command(OutServiceAction.REGISTER, 0, KEY, aptpl=True),
            out_command(OutServiceAction.RESERVE, KEY, type=KIND),
            WRITE,
        ):
            response = await self.guest(HOSTS[0], command)
            assert response.good, describe_response(response)

    async def registrants(self) -> dict[str, tuple[int, bool]]:
        """Initiator -> key, and whether it holds the reservation."""
        read = in_command(InServiceAction.READ_FULL_STATUS)
        found = FullStatus.decode((await self.tell("observer", self.target.url(), read)).data_in).descriptors
        return {
            str(each.transport_id).split(",", maxsplit=1)[0].rpartition(":")[2]: (each.key, each.holder)
            for each in found
        }

    async def drive(self, until: str) -> None:
        """What drives a migration asks for, until something goes wrong."""
        client = self.source.client
        with contextlib.suppress(AgentError):
            await client.prepare(GUEST, HANDOVER, HOSTS[1])
            await client.commit(GUEST, HANDOVER)
            await (client.finish if until == "gone" else client.roll_back)(GUEST, HANDOVER)

    async def end(self, until: str) -> str:
        """Bring the handover to an end, from wherever it is; the host that the guest is on then."""
        client = self.source.client
        state = await self._at_rest()
        if state is not None and state.open:
            if until == "stayed":
                await client.roll_back(GUEST, HANDOVER)
            else:
                if state.state == "prepared":
                    await client.commit(GUEST, HANDOVER)
                await client.finish(GUEST, HANDOVER)
            state = await self._at_rest()
        await self._nothing_open()
        return HOSTS[0] if state is None or state.state == "stayed" else HOSTS[1]

    async def _at_rest(self) -> HandoverState | None:
        async with asyncio.timeout(600):
            while True:
                try:
                    state = await self.source.client.handover(GUEST)
                except AgentRefused:
                    return None  # it died before anything was on record
                if not state.open or state.state in RESTS:
                    return state
                await asyncio.sleep(0.05)

    async def _nothing_open(self) -> None:
        async with asyncio.timeout(600):
            for agent in self.agents.values():
                with contextlib.suppress(AgentRefused):
                    while (await agent.client.handover(GUEST)).open:  # noqa: ASYNC110 - no event for it
                        await asyncio.sleep(0.05)

    async def check(self, here: str) -> None:
        """The guest has all on one host, and nothing on the other; its commands pass there alone."""
        gone = HOSTS[1 - HOSTS.index(here)]
        assert await self.registrants() == {here: (KEY, True)}
        assert (await self.guest(here, WRITE)).good
        gates = {host: (await agent.client.guest(GUEST)).devices[0] for host, agent in self.agents.items()}
        assert gates[here].gate == "running"
        assert (gates[here].key, gates[here].type, gates[here].aptpl) == (key_text(KEY), KIND, True)
        assert gates[gone].gate in ("incoming", "departed")
        assert gates[gone].key is None

    async def close(self) -> None:
        for agent in self.agents.values():
            await agent.client.close()


@contextlib.asynccontextmanager
async def scene(
    rig: Rig, target: Target, kill_at: str = "", victim: str = ""
) -> AsyncIterator[tuple[Scene, Intruder]]:
    """Both agents run, one of them with a hook; the guest has its reservation, and the intruder writes."""
    set_up = Scene(rig, target)
    for host, agent in set_up.agents.items():
        agent.start(kill_at if host == victim else "")
    try:
        await set_up.reserve()
        async with Intruder.at_work(target) as intruder:
            await intruder.refused_again()
            yield set_up, intruder
            await intruder.refused_again()
    finally:
        await set_up.close()


@pytest.mark.parametrize(("role", "state", "until", "side"), some(DEATHS, 6))
def test_an_agent_is_killed(rig: Rig, role: str, state: str, until: str, side: str) -> None:
    async def scenario() -> None:
        victim = HOSTS[0 if role == "source" else 1]
        async with scene(rig, rig.target(), f"{state}:1:{side}", victim) as (set_up, intruder):
            driving = asyncio.create_task(set_up.drive(until))
            dead = set_up.agents[victim]
            await dead.died()
            await intruder.refused_again()
            dead.start()
            await driving
            here = await set_up.end(until)
            if until == "stayed":
                assert here == HOSTS[0]
            await set_up.check(here)

    asyncio.run(scenario())


@pytest.mark.parametrize("until", ["gone", "stayed"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_target_cuts_off_the_connection_with_preempt_in_flight(rig: Rig, when: str, until: str) -> None:
    """On the way there, and on the way back as well: whoever sends it asks the LUN what came of it."""

    async def scenario() -> None:
        fault = f"drop-connection,when={when},action=PREEMPT,count=2"
        target = rig.target(options=["--fault", fault, "--json-events"])
        async with scene(rig, target) as (set_up, _):
            await set_up.drive(until)
            here = await set_up.end(until)
            assert here == HOSTS[1 if until == "gone" else 0]
            await set_up.check(here)
        assert target.process.output().count('"event":"fault"') >= 1

    asyncio.run(scenario())


def test_a_third_node_with_the_guests_key_keeps_all_it_has_and_so_does_aptpl(rig: Rig) -> None:
    async def scenario() -> None:
        target = rig.target()
        third = out_command(OutServiceAction.REGISTER, 0, KEY, aptpl=True)
        async with scene(rig, target) as (set_up, _):
            assert (await set_up.tell("third", target.url(), third)).good
            await set_up.drive("gone")
            expected = {"third": (KEY, False), HOSTS[1]: (KEY, True)}
            assert await set_up.registrants() == expected
            assert (await set_up.tell("third", target.url(), WRITE)).good
            assert (await set_up.guest(HOSTS[1], WRITE)).good
        target.process.popen.kill()
        target.process.popen.wait()
        rig.again(target)
        assert await set_up.registrants() == expected
        write = await set_up.tell("intruder", target.url(), WRITE)
        assert write.status is Status.RESERVATION_CONFLICT

    asyncio.run(scenario())


def test_both_agents_die_at_once_with_the_reservation_on_its_way(rig: Rig) -> None:
    async def scenario() -> None:
        async with scene(rig, rig.target(), "preempting:1:after", HOSTS[1]) as (set_up, intruder):
            driving = asyncio.create_task(set_up.drive("gone"))
            await set_up.destination.died()
            set_up.source.kill()
            await intruder.refused_again()
            await driving
            for agent in set_up.agents.values():
                agent.start()
            await set_up.check(await set_up.end("gone"))

    asyncio.run(scenario())
