"""Somebody who begins handovers all the time: what the journal keeps of them is bounded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.api.client import AgentRefused
from holdover.config.agent_file import Limits
from holdover.journal import _store, journal
from holdover.journal.journal import Journal
from holdover.journal.records import HandoverRecord
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, san

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=600)


def test_refused_prepares_do_not_fill_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # nothing comes back within this test
    monkeypatch.setattr("holdover.agent.handover.registry._EVERY_SECONDS", 3600.0)

    async def test() -> None:
        async with san(tmp_path, migrate_pr=("on", "off"), limits=QUICK) as set_up:
            await reserved(set_up)
            said = []
            for number in range(110):
                with pytest.raises(AgentRefused) as refused:
                    await set_up.clients["host-a"].prepare(GUEST, f"h{number}", set_up.apis["host-b"])
                said.append(str(refused.value))
            # at 847e57f each was recorded
            assert len(set_up.journals["host-a"].load().handovers) == 100
            assert all("migrate-pr is on on the source" in each for each in said[:100])
            assert all(
                "100 handovers of this guest have begun on host-a lately" in each for each in said[100:]
            )
            assert all("nothing was changed" in each for each in said[100:])

    asyncio.run(asyncio.wait_for(test(), 300))


@pytest.mark.parametrize("name", ["x" * 129, "", "a\nb"])
def test_a_name_that_is_none_is_not_recorded(tmp_path: Path, name: str) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            with pytest.raises(AgentRefused, match="a handover's name has 1 to 128 characters"):
                await set_up.clients["host-a"].prepare(GUEST, name, set_up.apis["host-b"])
            assert set_up.journals["host-a"].load().handovers == ()

    asyncio.run(asyncio.wait_for(test(), 120))


def test_what_is_kept_of_closed_handovers_is_bounded_however_new_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store, "MOST_WITH_STEPS", 20)
    monkeypatch.setattr(_store, "MOST_IDENTITIES", 100)
    monkeypatch.setattr(_store, "KEEP_IDENTITIES", 10)
    monkeypatch.setattr(journal, "_PRUNE_ROWS", 50)

    def state(handover_id: str, number: int) -> HandoverRecord:
        return HandoverRecord(
            handover_id=handover_id,
            guest="db1",
            role="source",
            peer="b",
            state=str(number),
            open=number < 2,
            body=b"x" * 1000,
            at=1000.0,
        )

    async def test() -> None:
        file = tmp_path / "journal"
        kept = Journal.open(file, clock=lambda: 1000.0)
        await kept.put(state("open", 0))
        for number in range(1000):
            await kept.put(*(state(f"h{number}", each) for each in range(3)))
        # what is done after a transaction is done before the next
        await kept.put(state("open", 1))
        found = kept.load().handovers
        # at 847e57f all 1,000 were there, with all their states
        assert 100 <= len([each for each in found if not each.open]) <= 100 + 50
        assert [each.handover_id for each in found if each.open] == ["open"]
        assert [each.state for each in kept.steps("open")] == ["0", "1"]
        assert len(kept.steps("h999")) == 3
        assert [each.state for each in kept.steps("h950")] == ["2"]
        await kept.close()
        again = Journal.open(file)
        assert len(again.load().handovers) == len(found)
        await again.close()

    asyncio.run(asyncio.wait_for(test(), 120))
