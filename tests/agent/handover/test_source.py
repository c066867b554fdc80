"""A source's handover goes on, whatever was not foreseen."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from holdover.agent.handover.source import SourceHandover
from holdover.api.client import AgentError, AgentRefused
from holdover.api.documents import PeerMessage
from holdover.config.agent_file import Limits
from holdover.handover.protocol import Answer, Message
from holdover.handover.states import Event, SourceState
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, KEY, San, san

QUICK = Limits(connect=2, step=2, drain=2, peer=3, give_up=1, recheck=60)


async def prepared(set_up: San, monkeypatch: pytest.MonkeyPatch) -> SourceHandover:
    """A handover that was prepared, by its driver."""
    made: list[SourceHandover] = []
    begin = SourceHandover.__init__

    def noticed(self: SourceHandover, *arguments: object) -> None:
        begin(self, *arguments)  # type: ignore[arg-type]
        made.append(self)

    monkeypatch.setattr(SourceHandover, "__init__", noticed)
    await reserved(set_up)
    await set_up.clients["host-a"].prepare(GUEST, "h1", set_up.apis["host-b"])
    return made[-1]


def test_what_was_not_foreseen_in_telling_is_as_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            source = await prepared(set_up, monkeypatch)

            async def send(_message: Message) -> Answer:
                raise RuntimeError("not foreseen")

            monkeypatch.setattr(source, "_send", send)
            client = set_up.clients["host-a"]
            with pytest.raises(AgentRefused, match="not foreseen"):
                await client.commit(GUEST, "h1")
            assert (await client.handover(GUEST)).state == "stayed"
            assert (await set_up.registrants())["host-a"] == (KEY, True)

    asyncio.run(test())


def test_an_answer_to_another_message_is_as_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            source = await prepared(set_up, monkeypatch)
            tell, numbers = source._send, []

            async def send(message: Message) -> Answer:
                answer = await tell(message)
                numbers.append(message.number)
                return replace(answer, number=answer.number - 1) if len(numbers) == 1 else answer

            monkeypatch.setattr(source, "_send", send)
            assert (await set_up.clients["host-a"].commit(GUEST, "h1")).state == "committed"
            assert len(numbers) == 2

    asyncio.run(test())


@pytest.mark.provokes("handover-stops")
def test_a_driver_that_was_ended_is_begun_anew_by_what_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            source = await prepared(set_up, monkeypatch)
            flush = source.executor.flush

            async def fails() -> None:
                monkeypatch.setattr(source.executor, "flush", flush)
                raise RuntimeError("not foreseen")

            monkeypatch.setattr(source.executor, "flush", fails)
            client = set_up.clients["host-a"]
            with capture_logs() as logs, pytest.raises(AgentError, match="not foreseen"):
                await client.commit(GUEST, "h1")
            assert "A handover has stopped after an unexpected error." in {log["event"] for log in logs}
            shown = await client.handover(GUEST)
            assert shown.state == set_up.journals["host-a"].steps("h1")[-1].state
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            assert set_up.journals["host-a"].steps("h1")[-1].state == "stayed"
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            assert (await set_up.gates())["host-a"] == "running"

    asyncio.run(test())


def test_an_end_that_was_not_put_on_record_is_put_on_record_when_it_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            source = await prepared(set_up, monkeypatch)
            flush = source.executor.flush

            async def fails_at_the_end() -> None:
                if not source.state_machine.is_open:
                    monkeypatch.setattr(source.executor, "flush", flush)
                    raise RuntimeError("not foreseen")
                await flush()

            monkeypatch.setattr(source.executor, "flush", fails_at_the_end)
            client = set_up.clients["host-a"]
            with capture_logs(), pytest.raises(AgentError, match="not foreseen"):
                await client.roll_back(GUEST, "h1")
            assert set_up.journals["host-a"].steps("h1")[-1].state != "stayed"
            assert (await client.roll_back(GUEST, "h1")).state == "stayed"
            assert set_up.journals["host-a"].steps("h1")[-1].state == "stayed"

    asyncio.run(test())


def test_an_agent_without_memory_for_a_record_goes_on_from_the_record_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            source = await prepared(set_up, monkeypatch)
            client, clock = set_up.clients["host-a"], source.executor._clock
            await client.commit(GUEST, "h1")

            def has_no_memory() -> float:
                monkeypatch.setattr(source.executor, "_clock", clock)
                raise MemoryError

            monkeypatch.setattr(source.executor, "_clock", has_no_memory)
            with capture_logs(), pytest.raises(AgentError):
                await client.finish(GUEST, "h1")
            assert (await client.finish(GUEST, "h1")).state == "gone"
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert (await set_up.gates())["host-a"] == "departed"

    asyncio.run(test())


def test_what_is_asked_while_the_disk_is_at_work_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            source = await prepared(set_up, monkeypatch)
            flush, at_work, asked = source.executor.flush, asyncio.Event(), asyncio.Event()

            async def slow() -> None:
                at_work.set()
                await asked.wait()
                await flush()

            monkeypatch.setattr(source.executor, "flush", slow)
            waiting = asyncio.create_task(source.settled())
            await at_work.wait()
            commit = asyncio.create_task(source.ask(Event.ASKED_COMMIT))
            await asyncio.sleep(0)
            asked.set()
            assert (await commit).state is SourceState.COMMITTED
            assert (await waiting).is_open

    asyncio.run(test())


@pytest.mark.provokes("handover-stops")
def test_a_handover_that_has_stopped_goes_on_when_its_agent_is_restarted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            source = await prepared(set_up, monkeypatch)

            async def fails() -> None:
                raise RuntimeError("not foreseen")

            monkeypatch.setattr(source.executor, "flush", fails)
            with capture_logs() as logs, pytest.raises(AgentError, match="not foreseen"):
                await set_up.clients["host-a"].commit(GUEST, "h1")
            assert "A handover has stopped after an unexpected error." in {log["event"] for log in logs}
            await set_up.stop("host-a")
            await set_up.start("host-a")
            client = set_up.clients["host-a"]
            await client.roll_back(GUEST, "h1")
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            assert (await set_up.gates())["host-a"] == "running"

    asyncio.run(test())


def test_it_is_known_when_the_commit_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with san(tmp_path, limits=QUICK) as set_up:
            await reserved(set_up)
            client, handovers = set_up.clients["host-a"], set_up.hosts["host-a"].handovers
            await client.prepare(GUEST, "h1", set_up.apis["host-b"])
            leaves = asyncio.ensure_future(handovers.commit_leaves(GUEST))
            await asyncio.sleep(0.01)
            assert not leaves.done()
            there, arrived = set_up.hosts["host-b"].handovers, asyncio.Event()
            receive = there.receive

            async def waits(message: PeerMessage, sender: str) -> Answer:
                arrived.set()
                await leaves  # although the message is not answered
                return await receive(message, sender)

            monkeypatch.setattr(there, "receive", waits)
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert arrived.is_set()
            await set_up.hosts["host-b"].handovers.commit_leaves("nobody")

    asyncio.run(test())
