"""A journal in a file: what was acknowledged is there, in order, and for one process alone."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings

from holdover.journal import journal as journal_module
from holdover.journal._rows import Row
from holdover.journal._store import Forget, Store
from holdover.journal.journal import Journal, JournalDamaged, JournalError, JournalLike
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import HandoverRecord
from tests.journal.support import Call, calls, device, guest, run, step


def epoch() -> float:
    """A clock at which no handover is old."""
    return 0.0


@pytest.fixture(params=["file", "memory"])
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> JournalLike:
    """Each kind of journal, new; a file is closed by the test."""
    return Journal.open(tmp_path / "journal") if request.param == "file" else MemoryJournal()


def test_a_new_journal_is_empty(journal: JournalLike) -> None:
    async def test() -> None:
        contents = journal.load()
        assert (contents.guests, contents.devices, contents.handovers) == ((), (), ())
        assert journal.steps("h1") == ()
        assert journal.failed is None
        await journal.close()

    run(test)


def test_a_guest_and_a_device_are_replaced_by_key(journal: JournalLike) -> None:
    async def test() -> None:
        await journal.put(guest("b"), guest("a"), device("a", "2"), device("a", "1"), device("b", "1"))
        await journal.put(guest("b", uuid="u"), device("a", "2", b"new"))
        contents = journal.load()
        assert contents.guests == (guest("a"), guest("b", uuid="u"))
        assert contents.devices == (device("a", "1"), device("a", "2", b"new"), device("b", "1"))
        await journal.close()

    run(test)


def test_each_state_of_a_handover_is_kept_and_the_newest_counts(journal: JournalLike) -> None:
    async def test() -> None:
        states = [step("h1", "one"), step("h2", "one"), step("h1", "two", at=0.5), step("h1", "two", at=0.5)]
        for state in states:
            await journal.put(state)
        assert journal.load().handovers == (states[1], states[3])
        assert journal.steps("h1") == (states[0], states[2], states[3])
        assert journal.steps("h2") == (states[1],)
        await journal.close()

    run(test)


def test_a_state_of_one_side_of_a_handover_hides_none_of_the_other(journal: JournalLike) -> None:
    async def test() -> None:
        source = step("h1", "committed")
        other = msgspec.structs.replace(step("h1", "returned", is_open=False), role="destination")
        await journal.put(source)
        await journal.put(other)
        assert journal.load().handovers == (source, other)
        assert journal.steps("h1") == (source, other)
        await journal.close()

    run(test)


def test_forgetting_a_guest_takes_its_devices_and_leaves_handovers(journal: JournalLike) -> None:
    async def test() -> None:
        await journal.put(
            guest("a"), guest("b"), device("a", "1"), device("b", "1"), device("b", "2"), step()
        )
        await journal.forget("a", ("b", "1"), "never there", ("b", "never there"))
        contents = journal.load()
        assert contents.guests == (guest("b"),)
        assert contents.devices == (device("b", "2"),)
        assert contents.handovers == (step(),)
        await journal.close()

    run(test)


def test_a_closed_journal_takes_nothing_and_may_be_closed_again(journal: JournalLike) -> None:
    async def test() -> None:
        await journal.close()
        await journal.close()
        with pytest.raises(JournalError, match="it is closed; open it again"):
            await journal.put(guest())
        with pytest.raises(JournalError, match="it is closed; open it again"):
            await journal.forget("db1")

    run(test)


@given(calls)
@settings(max_examples=150, deadline=None)
def test_what_is_found_again_is_what_was_acknowledged(made: list[Call]) -> None:
    async def test() -> None:
        expected = MemoryJournal()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "journal")
            for part in (made[::2], made[1::2]):
                journal = Journal.open(file, clock=epoch)
                for call in part:
                    await call.make(journal)
                    await call.make(expected)
                assert journal.load() == expected.load()
                await journal.close()
            journal = Journal.open(file, clock=epoch)
            assert journal.load() == expected.load()
            for handover in expected.load().handovers:
                assert journal.steps(handover.handover_id) == expected.steps(handover.handover_id)
            await journal.close()

    run(test)


def test_callers_at_once_are_written_in_the_order_of_their_calls(tmp_path: Path) -> None:
    async def test() -> None:
        journal = Journal.open(tmp_path / "journal")
        states = [step("h1", str(number)) for number in range(1000)]
        await asyncio.gather(*(journal.put(state) for state in states))
        assert journal.steps("h1") == tuple(states)
        await journal.close()
        mark = (tmp_path / "journal.mark").read_text().split()
        assert int(mark[mark.index("acknowledged") + 1]) < 500, "each caller had a transaction of its own"

    run(test)


def test_closing_writes_what_waits(tmp_path: Path) -> None:
    async def test() -> tuple[HandoverRecord, ...]:
        journal = Journal.open(tmp_path / "journal")
        putting = [asyncio.create_task(journal.put(step("h1", str(number)))) for number in range(100)]
        await asyncio.sleep(0)
        await journal.close()
        await asyncio.gather(*putting)
        again = Journal.open(tmp_path / "journal")
        kept = again.steps("h1")
        await again.close()
        return kept

    assert [state.state for state in run(test)] == [str(number) for number in range(100)]


def test_what_is_noted_goes_with_the_next_transaction_in_the_order_of_the_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, sizes = Store.commit, []

    def counted(store: Store, changes: Iterable[Row | Forget]) -> None:
        taken = list(changes)
        sizes.append(len(taken))
        commit(store, taken)

    async def test() -> None:
        journal = Journal.open(tmp_path / "journal")
        monkeypatch.setattr(Store, "commit", counted)
        monkeypatch.setattr(journal_module, "_NOTE_SECONDS", 3600.0)
        await journal.put(step("h1", "0"))
        noted = [asyncio.create_task(journal.note(step("h1", str(number)))) for number in (1, 2)]
        await asyncio.sleep(0.1)
        assert sizes == [1]
        await journal.put(step("h1", "3"))
        await asyncio.gather(*noted)
        assert sizes == [1, 3]
        assert [each.state for each in journal.steps("h1")] == ["0", "1", "2", "3"]
        left = asyncio.create_task(journal.note(step("h1", "4")))
        await asyncio.sleep(0)
        await journal.close()
        await left
        again = Journal.open(tmp_path / "journal")
        assert [each.state for each in again.steps("h1")] == ["0", "1", "2", "3", "4"]
        await again.close()

    run(test)


def test_what_is_noted_is_written_although_nothing_else_comes(journal: JournalLike) -> None:
    async def test() -> None:
        await journal.note()
        await journal.note(step("h1", "0"))
        assert [each.state for each in journal.steps("h1")] == ["0"]
        await journal.close()
        with pytest.raises(JournalError, match="it is closed; open it again"):
            await journal.note(step("h1", "1"))

    run(test)


def test_those_who_wait_together_fail_together_and_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    commit = Store.commit
    sizes: list[int] = []

    def failing(store: Store, changes: Iterable[Row | Forget]) -> None:
        """The first is slow, the second fails."""
        taken = list(changes)
        sizes.append(len(taken))
        if len(sizes) == 1:
            begun.set()
            go_on.wait(600)
        if len(sizes) == 2:
            raise JournalError(store.file, "no room", "make some")
        commit(store, taken)

    async def test() -> None:
        journal = Journal.open(tmp_path / "journal")
        monkeypatch.setattr(Store, "commit", failing)
        first = asyncio.create_task(journal.put(guest("first")))
        await asyncio.to_thread(begun.wait, 60)
        others = [asyncio.create_task(journal.put(guest(f"g{number}"))) for number in range(10)]
        cancelled = asyncio.create_task(journal.put(guest("cancelled")))
        await asyncio.sleep(0)
        cancelled.cancel()
        go_on.set()
        failures = await asyncio.gather(*others, return_exceptions=True)
        assert {str(failure) for failure in failures} == {f"journal {journal.file}: no room; make some"}
        assert len({id(failure) for failure in failures}) == 10
        assert str(journal.failed) == str(failures[0])
        await first
        await journal.put(guest("last"))
        assert journal.failed is None
        assert [kept.name for kept in journal.load().guests] == ["first", "last"]
        assert sizes == [1, 11, 1]
        await journal.close()

    run(test)


def test_after_damage_nothing_more_is_taken(tmp_path: Path) -> None:
    async def test() -> None:
        file = tmp_path / "journal"
        journal = Journal.open(file)
        await journal.put(guest())
        file.rename(tmp_path / "aside")
        file.write_bytes(b"")
        says = "was replaced while the agent used it; put the original file back"
        with pytest.raises(JournalDamaged, match=says):
            await journal.put(guest("other"))
        (tmp_path / "aside").rename(file)
        with pytest.raises(JournalDamaged, match=says):
            await journal.put(guest("late"))
        assert isinstance(journal.failed, JournalDamaged)
        await journal.close()

    run(test)


def test_a_record_that_cannot_be_written_fails_alone(tmp_path: Path) -> None:
    async def test() -> None:
        journal = Journal.open(tmp_path / "journal")
        outcomes = await asyncio.gather(
            journal.put(guest("a")),
            journal.put(guest("b"), guest("\ud800")),
            journal.put(guest("c")),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes] == [type(None), UnicodeEncodeError, type(None)]
        assert [kept.name for kept in journal.load().guests] == ["a", "c"]
        await journal.close()

    run(test)


def test_closed_handovers_are_pruned_while_it_runs(tmp_path: Path) -> None:
    async def test() -> None:
        journal = Journal.open(tmp_path / "journal", clock=lambda: 10 * 86400.0)
        await journal.put(
            step("h1", "one"), step("h1", "done", is_open=False), step("h2", "one"), step("h2", "two")
        )
        await journal.close()
        journal = Journal.open(tmp_path / "journal")
        assert [state.state for state in journal.steps("h1")] == ["done"]
        assert [state.state for state in journal.steps("h2")] == ["one", "two"]
        await journal.close()

    run(test)


def test_a_loop_that_never_rests_does_not_keep_a_write_waiting(tmp_path: Path) -> None:
    async def test() -> None:
        journal = Journal.open(tmp_path / "journal", clock=epoch)
        resting = False

        async def busy() -> int:
            turns = 0
            while not resting:
                until = time.perf_counter() + 0.0001
                while time.perf_counter() < until:
                    pass
                turns += 1
                await asyncio.sleep(0)
            return turns

        turns = asyncio.create_task(busy())
        await asyncio.sleep(0)
        for number in range(20):
            await journal.put(guest(f"g{number}"))
        resting = True
        # a write takes 10 or 20, more on a busy machine; without pauses for the writer it took 27,000
        assert await turns < 20 * 5000
        await journal.close()

    run(test)
