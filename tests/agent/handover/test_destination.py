"""What the guest changes on the destination, while the handover is not over, is its own."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from holdover.agent.handover.executor import HandoverExecutor
from holdover.api.client import AgentError, AgentRefused
from holdover.config.agent_file import Limits
from holdover.handover.states import DestinationState
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.reservation.key import key_text
from holdover.scsi.reservation.reservation_out import out_command
from tests.agent.handover.moves import reserved
from tests.agent.handover.test_trouble import until
from tests.agent.hosts import GUEST, KEY, DyingJournal, Initiator, San, san

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=0.2)
NEW = 0xBEEF


async def committed(set_up: San) -> Initiator:
    await reserved(set_up)
    client = set_up.clients["host-a"]
    await client.prepare(GUEST, "h1", set_up.apis["host-b"])
    await client.commit(GUEST, "h1")
    return set_up.guest_on("host-b")


async def written(journal: DyingJournal, state: str, after: int) -> None:
    """Wait until ``state`` is on record again."""
    if state not in [step.state for step in journal.steps("h1")[after:]]:
        await asyncio.sleep(0.01)
        await written(journal, state, after)


def test_looking_whether_all_is_well_changes_nothing_that_the_guest_has_set(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            guest = await committed(set_up)
            await guest.must(out_command(OutServiceAction.REGISTER, KEY, NEW, aptpl=False))
            state = await set_up.clients["host-a"].finish(GUEST, "h1")
            assert [lun.alarm for lun in state.luns] == [""]
            assert not set_up.luns[0].state.aptpl
            assert (await set_up.clients["host-b"].handover(GUEST)).problem == ""
            assert await set_up.registrants() == {"host-b": (NEW, True)}

    asyncio.run(test())


def test_what_was_taken_and_not_put_on_record_is_put_on_record_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await committed(set_up)
            await set_up.stop("host-a")
            client, journal = set_up.clients["host-b"], set_up.journals["host-b"]
            flush = HandoverExecutor.flush

            async def fails_at_the_end(self: HandoverExecutor) -> None:
                if self._newest is not None and self._newest.state is DestinationState.TAKEN:
                    monkeypatch.setattr(HandoverExecutor, "flush", flush)
                    raise RuntimeError("not foreseen")
                await flush(self)

            monkeypatch.setattr(HandoverExecutor, "flush", fails_at_the_end)
            with capture_logs(), pytest.raises(AgentError, match="not foreseen"):
                await client.take(GUEST, "h1")
            assert journal.steps("h1")[-1].state != "taken"
            assert (await client.take(GUEST, "h1")).state == "taken"
            assert journal.steps("h1")[-1].state == "taken"

    asyncio.run(test())


@pytest.mark.parametrize("taken", [False, True], ids=["committed", "taken"])
def test_an_agent_that_dies_while_it_looks_keeps_what_the_guest_has_set(tmp_path: Path, taken: bool) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            guest = await committed(set_up)
            client = set_up.clients["host-b"]
            if taken:
                await set_up.stop("host-a")
                assert (await client.take(GUEST, "h1")).state == "taken"
            await guest.must(out_command(OutServiceAction.REGISTER, KEY, NEW, aptpl=False))
            journal = set_up.journals["host-b"]
            journal.arm(2, after=False)  # that it looks is on record; how that ended is not
            if taken:
                await set_up.start("host-a")
            finishing = asyncio.create_task(set_up.clients["host-a"].finish(GUEST, "h1"))
            await journal.dead.wait()
            steps = len(journal.steps("h1"))
            assert journal.steps("h1")[-1].state == "verifying"
            await set_up.stop("host-b")
            journal.arm(0, after=False)
            await set_up.start("host-b")
            await written(journal, "committed", steps)
            device = (await client.guest(GUEST)).devices[0]
            assert device.key == key_text(NEW)
            with contextlib.suppress(AgentRefused):  # it may have heard of it before it had begun anew
                await finishing
            await until(set_up, "host-a", lambda state: not state.open)
            assert (await set_up.registrants())["host-b"] == (NEW, True)

    asyncio.run(test())
