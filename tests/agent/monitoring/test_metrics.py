"""The metrics of running agents: they say what is true, and cost the guests nothing."""

from __future__ import annotations

import asyncio
import datetime
import re
from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from holdover.agent.monitoring.monitor import Monitor
from holdover.agent.monitoring.peer_watch import PeerReport, PeerWatch
from holdover.agent.monitoring.readings import readings_of
from holdover.api.peer_hosts import Peers
from holdover.guest.gate import Gate
from holdover.metrics.definitions import METRICS, NAMED_MOST
from holdover.metrics.exposition import Sample, text_of
from holdover.scsi.cdbs.opcodes import ReservationType
from tests.agent.hosts import GUEST, WRITE, San, san


async def values_of(set_up: San, host: str) -> dict[str, float]:
    """The samples of a host, by name and labels."""
    monitor = Monitor(set_up.hosts[host])
    try:
        return samples(await monitor.metrics())
    finally:
        await monitor.close()


def samples(page: bytes) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_metrics_follow_a_handover(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.register()
            await guest.reserve(ReservationType.WRITE_EXCLUSIVE)
            before = await values_of(set_up, "host-a")
            assert before["holdover_guests{state=running}"] == 1
            assert before["holdover_luns{state=running}"] == 2
            assert before["holdover_tracked_registrations"] == 1
            assert before["holdover_tracked_reservations"] == 1
            assert before["holdover_export_sessions"] == 1
            assert before["holdover_lun_command_duration_seconds_count{sender=guest}"] == 2
            assert before["holdover_lun_command_duration_seconds_count{sender=agent}"] > 0
            assert before["holdover_handovers_open{role=source}"] == 0

            a = set_up.clients["host-a"]
            await a.prepare(GUEST, "h1", "host-b")
            assert (await values_of(set_up, "host-a"))["holdover_handovers_open{role=source}"] == 1
            there = await values_of(set_up, "host-b")
            assert there["holdover_handovers_open{role=destination}"] == 1
            await a.commit(GUEST, "h1")
            held = await values_of(set_up, "host-a")
            assert held["holdover_luns{state=leaving}"] == 2
            assert held["holdover_gates_held"] == 1
            assert held[f"holdover_gate_held_seconds{{guest={GUEST}}}"] >= 0
            assert held["holdover_handover_phase_duration_seconds_count{phase=commit,role=source}"] == 1
            await a.finish(GUEST, "h1")
            after = await values_of(set_up, "host-a")
            assert after["holdover_handovers_total{end=moved,role=source}"] == 1
            assert after["holdover_guests{state=departed}"] == 1
            assert after["holdover_gates_held"] == 0
            there = await values_of(set_up, "host-b")
            assert there["holdover_handovers_total{end=moved,role=destination}"] == 1
            assert there["holdover_tracked_reservations"] == 1

    asyncio.run(test())


def test_a_guest_whose_commands_wait_and_a_stale_lun_have_names(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = set_up.guest_on("host-a")
            await guest.register()
            device = set_up.hosts["host-a"].guests[GUEST].devices[0]
            device.move_gate(Gate.INCOMING)
            waiting = asyncio.ensure_future(guest.tell(WRITE))
            while not device.held:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0)
            device.block.mark_stale()
            values = await values_of(set_up, "host-a")
            assert values["holdover_commands_held"] == 1
            assert values[f"holdover_gate_held_seconds{{guest={GUEST}}}"] >= 0
            assert values[f"holdover_lun_stale{{guest={GUEST},lun={device.designator}}}"] == 1
            device.move_gate(Gate.RUNNING)
            await waiting

    asyncio.run(test())


def test_every_metric_that_is_always_there_is_there(tmp_path: Path) -> None:
    async def test() -> set[str]:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            host = set_up.hosts["host-a"]
            monitor = Monitor(host)
            read = await readings_of(host, {"host-b": PeerReport(True, 0.5)}, monitor.readiness())
            await monitor.close()
            assert [each.metric for each in read if len(each.labels) != len(each.metric.labels)] == []
            return {each.metric.name for each in read}

    # these are there while something is wrong with a guest
    named = {"holdover_lun_stale", "holdover_gate_held_seconds", "holdover_handover_in_doubt"}
    assert asyncio.run(test()) == {each.name for each in METRICS} - named


def test_a_page_is_made_once_a_second_however_many_ask(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            monitor = Monitor(set_up.hosts["host-a"])
            pages = await asyncio.gather(*(monitor.metrics() for _ in range(50)))
            assert len({id(page) for page in pages}) == 1
            await monitor.close()

    asyncio.run(test())


def test_guests_with_names_are_few(tmp_path: Path) -> None:
    async def test() -> bytes:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            host = set_up.hosts["host-a"]
            one = host.guests[GUEST]
            one.devices[0].block.mark_stale()
            host.guests.update({f"g{n}": one for n in range(2 * NAMED_MOST)})
            monitor = Monitor(host)
            page = await monitor.metrics()
            await monitor.close()
            for name in [each for each in host.guests if each != GUEST]:
                del host.guests[name]
            return page

    page = asyncio.run(test())
    assert len(re.findall(rb"^holdover_lun_stale\{", page, re.MULTILINE)) == NAMED_MOST
    assert f"holdover_stale_luns {2 * NAMED_MOST + 1}.0\n".encode() in page


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_name_comes_back(name: str) -> None:
    metric = next(each for each in METRICS if each.labels == ("guest",))
    page = text_of([Sample(metric, 1, (name,))])
    family = next(iter(text_string_to_metric_families(page.decode())))
    assert family.samples[0].labels == {"guest": name}


def test_a_peer_that_does_not_answer_is_said_to_be_unreachable(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            host = set_up.hosts["host-a"]
            ahead = PeerWatch(host.peers, lambda: ("host-b",), clock=lambda: 0.0)
            await ahead.ask()
            assert ahead.reports["host-b"].reachable
            skew = ahead.reports["host-b"].skew
            now = datetime.datetime.now(datetime.UTC).timestamp()
            assert skew is not None
            assert abs(skew - now) < 600
            await set_up.stop("host-b")
            await ahead.ask()
            assert not ahead.reports["host-b"].reachable
            assert "host-b" in ahead.reports["host-b"].problem or ahead.reports["host-b"].problem

    asyncio.run(test())


def test_a_peer_without_a_name_in_the_file_is_no_reason_to_stop() -> None:
    async def test() -> None:
        watch = PeerWatch(Peers("host-a", (), None), lambda: ("host-z",))
        await watch.ask()
        assert "host-a has no peer 'host-z'" in watch.reports["host-z"].problem

    asyncio.run(test())


def test_an_agent_whose_journal_fails_is_not_ready(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as set_up:
            monitor = Monitor(set_up.hosts["host-a"])
            state = monitor.readiness()
            assert state.ready
            assert [part.name for part in state.parts] == ["start", "journal", "certificates"]
            assert msgspec.json.decode(msgspec.json.encode(state), type=type(state)) == state
            await monitor.close()

    asyncio.run(test())
