"""A LUN whose guest is handed over and rolled back, beside one whose guest is never moved.

A cluster fences on both with the same commands: of the guest, wherever it runs, and of two other nodes. After
each step both must have the same registrations and the same reservation, and let the same nodes write.
``python -m tests.agent.test_beside_unmoved STEPS [SEED]`` goes as many steps as one likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from holdover.api.client import AgentRefused
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.lun.reservations import ReservationState
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import is_unit_attention
from holdover.scsi.status import Status
from tests.agent.handover.test_trouble import QUICK
from tests.agent.hosts import GUEST, WRITE, Initiator, San, san
from tests.rig.amounts import some

HOSTS = ("host-a", "host-b")
NODES = ("guest", "n1", "n2", "stranger")
KEYS = {"guest": (0x11, 0x12), "n1": (0x21, 0x22), "n2": (0x31,), "stranger": ()}
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
_S = OutServiceAction
ACTIONS = [
    *(_S.REGISTER, _S.REGISTER, _S.REGISTER_AND_IGNORE_EXISTING_KEY, _S.REGISTER_AND_IGNORE_EXISTING_KEY),
    *(_S.RESERVE, _S.RESERVE, _S.RELEASE, _S.PREEMPT, _S.PREEMPT_AND_ABORT, _S.PREEMPT_AND_ABORT, _S.CLEAR),
]
_PATIENCE = 600.0

Standing = tuple[dict[str, int], ReservationType | None, str, bool]
"""The key of each node, the reservation's type, its holder, and APTPL."""


class Beside:
    """Both LUNs, the steps, and how often each kind of step was done."""

    def __init__(self, set_up: San, unmoved: EmbeddedLun, seed: int) -> None:
        self.set_up = set_up
        self.unmoved = unmoved
        self.draw = Random(seed)
        self.here = 0
        self.state = ""
        self.number = 0
        self.done: Counter[str] = Counter()
        self.last: list[str] = []
        self.nexuses = {
            node: ITNexus(IscsiTransportID(f"iqn.2026-11.org.example:{node}", bytes([128, 0, 0, 0, 0, each])))
            for each, node in enumerate(NODES)
        }
        self.initiators: dict[str, Initiator] = {node: set_up.third(node) for node in NODES[1:]}

    # -- commands -----------------------------------------------------------------------------------

    def guest(self) -> Initiator:
        host = HOSTS[self.here]
        if host not in self.initiators:
            self.initiators[host] = self.set_up.guest_on(host)
        return self.initiators[host]

    async def at_unmoved(self, node: str, command: Command) -> Response:
        while is_unit_attention(answer := await self.unmoved.execute(self.nexuses[node], command)):
            pass
        return answer

    async def both(self, node: str, command: Command) -> Status:
        expected = (await self.at_unmoved(node, command)).status
        initiator = self.guest() if node == "guest" else self.initiators[node]
        answer = await initiator.tell(command)
        assert answer.status is expected, self.told(f"{node} was answered {answer}, not {expected.name}")
        return expected

    async def fence(self) -> None:
        """A command that a fence agent sends, or a node that has its reasons."""
        node = self.draw.choice(NODES[:3])
        state = self.unmoved.state
        action, own = self.draw.choice(ACTIONS), state.key_of(self.nexuses[node])
        if action is _S.CLEAR and self.draw.random() < 0.7:
            action = _S.REGISTER
        key = own if self.draw.random() < 0.9 else self.draw.choice(KEYS[node])
        service_key, kind = 0, None
        if action in (_S.REGISTER, _S.REGISTER_AND_IGNORE_EXISTING_KEY):
            service_key = self.draw.choice((*KEYS[node], 0))
        elif action in (_S.PREEMPT, _S.PREEMPT_AND_ABORT):
            others = [each.key for each in state.registrations if each.nexus != self.nexuses[node]]
            service_key = self.draw.choice(others or [KEYS["n2"][0]])
        if action not in (_S.REGISTER, _S.REGISTER_AND_IGNORE_EXISTING_KEY, _S.CLEAR):
            held = state.reservation
            kind = WERO if self.draw.random() < 0.7 else self.draw.choice(tuple(ReservationType))
            kind = held.type if held is not None and self.draw.random() < 0.8 else kind
        aptpl = action in (_S.REGISTER, _S.REGISTER_AND_IGNORE_EXISTING_KEY)
        command = out_command(action, key, service_key, type=kind, aptpl=aptpl)
        self.note(f"{node} {action.name} {key:#x} {service_key:#x} {kind.short_name if kind else ''}")
        status = await self.both(node, command)
        self.done[f"{'guest' if node == 'guest' else 'node'} {action.name}: {status.name}"] += 1

    async def writes(self) -> None:
        for node in NODES:
            await self.both(node, WRITE)
        self.done["writes"] += 1

    # -- handovers ----------------------------------------------------------------------------------

    async def hand_over(self) -> None:
        """The next step of a handover, or the way back."""
        client, name = self.set_up.clients[HOSTS[self.source]], f"h{self.number}"
        with contextlib.suppress(AgentRefused):
            if not self.state:
                self.number += 1
                self.note("prepare")
                to = self.set_up.apis[HOSTS[1 - self.here]]
                await client.prepare(GUEST, f"h{self.number}", to)
            elif self.draw.random() < 0.4:
                self.note(f"roll back from {self.state}")
                await client.roll_back(GUEST, name)
            elif self.state == "prepared":
                self.note("commit")
                await client.commit(GUEST, name)
            else:
                self.note("finish")
                await client.finish(GUEST, name)
        await self.look()

    @property
    def source(self) -> int:
        """Which host the guest leaves, or is on."""
        return 1 - self.here if self.state == "committed" else self.here

    async def look(self) -> None:
        """Wait until the handover rests; where the guest runs then."""
        client, source = self.set_up.clients[HOSTS[self.source]], self.source
        before, end = self.state, time.monotonic() + _PATIENCE
        while True:
            try:
                state = await client.handover(GUEST)
                if state.handover_id != f"h{self.number}":
                    break
            except AgentRefused:
                break  # it was refused before anything of it was done
            if not state.open or state.state in ("prepared", "committed"):
                before = state.state
                break
            assert time.monotonic() < end, self.told(f"it stays {state.state}: {state.problem}")
            await asyncio.sleep(0.01)
        else:
            raise AssertionError
        self.state = before if before in ("prepared", "committed") else ""
        self.here = 1 - source if before in ("committed", "gone") else source
        self.done[f"handover {before or 'refused'}"] += 1

    async def restart(self) -> None:
        host = self.draw.choice(HOSTS)
        self.note(f"the agent of {host} begins anew")
        await self.set_up.stop(host)
        await self.set_up.start(host)
        self.initiators.pop(host, None)
        self.done["restart"] += 1
        await self.look()

    # -- what must be so ----------------------------------------------------------------------------

    async def step(self) -> None:
        drawn = self.draw.random()
        if drawn < 0.75:
            await self.fence()
        elif drawn < 0.985:
            await self.hand_over()
        else:
            await self.restart()
        await self.same()
        if self.draw.random() < 0.2:
            await self.writes()

    async def same(self) -> None:
        """Wait until nothing differs: what a guest changes while it is prepared takes the destination along
        only when it has heard of it."""
        end = time.monotonic() + _PATIENCE
        while (moved := self.moved()) != (unmoved := _standing(self.unmoved.state, self.name_of)):
            assert time.monotonic() < end, self.told(f"{moved}\nand not\n{unmoved}")
            if self.state == "prepared":
                await self.look()
            await asyncio.sleep(0.01)

    def name_of(self, nexus: ITNexus) -> str:
        return next(node for node, each in self.nexuses.items() if each == nexus)

    def moved(self) -> Standing:
        there = HOSTS[1 - self.here]
        passes_over = there if self.state == "prepared" else ""

        def name(nexus: ITNexus) -> str:
            found = str(nexus.initiator).split(",")[0].rpartition(":")[2]
            if found == passes_over:
                return ""
            return "guest" if found == HOSTS[self.here] else found

        return _standing(self.set_up.luns[0].state, name)

    def note(self, what: str) -> None:
        self.last = [*self.last[-30:], f"{HOSTS[self.here]} {self.state or 'rests'}: {what}"]

    def told(self, problem: str) -> str:
        steps = "\n".join(self.last)
        return f"{problem}\nafter {sum(self.done.values())} steps, the last of them:\n{steps}"


def _standing(state: ReservationState, name_of: object) -> Standing:
    assert callable(name_of)
    registered = {name_of(each.nexus): each.key for each in state.registrations}
    registered.pop("", None)
    held = state.reservation
    if held is None:
        return registered, None, "", state.aptpl
    holder = "" if held.holder is None else name_of(held.holder)
    return registered, held.type, holder, state.aptpl


async def go(folder: Path, steps: int, seed: int) -> Counter[str]:
    """So many steps; how often each kind of step was done."""
    async with san(folder, limits=QUICK) as set_up:
        unmoved = EmbeddedLun.open(LunOptions(folder / "unmoved", 1 << 20))
        try:
            beside = Beside(set_up, unmoved, seed)
            for number in range(steps):
                await beside.step()
                if sys.stdout.isatty() or number % 500 == 499:
                    print(f"{number + 1} steps", flush=True)
            return beside.done
        finally:
            await unmoved.close()


@pytest.mark.parametrize("seed", some(range(4), 4))
def test_a_cluster_that_fences_sees_no_difference(tmp_path: Path, seed: int) -> None:
    done = asyncio.run(go(tmp_path, 250, seed))
    assert done["handover committed"] > 5
    assert done["handover stayed"] > 5
    assert any(what.startswith("guest PREEMPT") and what.endswith("GOOD") for what in done)


def main(steps: str, seed: str = "1") -> None:
    """So many steps by hand."""
    with tempfile.TemporaryDirectory() as folder:
        done = asyncio.run(go(Path(folder), int(steps), int(seed)))
    for what, count in done.most_common():
        print(f"{count:7} {what}")


if __name__ == "__main__":
    main(*sys.argv[1:])
