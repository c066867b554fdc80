"""The history: what it keeps, for how long, and what it tells of a handover."""

from __future__ import annotations

import asyncio
import datetime
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from holdover.agent.guests.recorded_path import RecordedPath
from holdover.cli.history import begin_of
from holdover.history.entry import CAUSE, Cause, Entry
from holdover.history.history import History, read
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.status import Status
from tests.agent.hosts import GUEST, KEY, san


def entry(at: float, guest: str = "db1", lun: str = "naa.1") -> Entry:
    return Entry(at=at, guest=guest, what="REGISTER", by="guest", lun=lun)


def test_entries_of_a_guest_and_of_a_lun(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    history = History(file, 90, 1000)
    for at, guest, lun in ((1, "db1", "naa.1"), (2, "db2", "naa.1"), (3, "db1", "naa.2")):
        history.add(entry(at, guest, lun))
    history.close()
    assert [each.at for each in read(file, "", 0, 10)] == [1, 2, 3]
    assert [each.at for each in read(file, "db1", 0, 10)] == [1, 3]
    assert [each.at for each in read(file, "naa.1", 0, 10)] == [1, 2]
    assert [each.at for each in read(file, "", 2, 10)] == [2, 3]
    assert [each.at for each in read(file, "", 0, 1)] == [3], "the newest"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_was_queued_is_in_the_file_once_it_has_settled(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    history = History(file, 90, 1000)
    try:
        for at in range(100):
            history.add(entry(at))
            if at % 30 == 29:
                history.settle(600)
                assert [each.at for each in read(file, "", 0, 1)] == [at]
    finally:
        history.close()
    history.settle(600)


def test_old_entries_and_too_many_go(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    history = History(file, 1, 500, lambda: 10 * 86400.0)
    for number in range(2000):
        history.add(entry(8 * 86400.0 if number < 1800 else 10 * 86400.0))
    history.close()
    again = History(file, 1, 100, lambda: 10 * 86400.0)
    for _ in range(1000):
        again.add(entry(10 * 86400.0))
    again.close()
    kept = read(file, "", 0, 10_000)
    assert len(kept) == 100
    assert min(each.at for each in kept) == 10 * 86400.0


@pytest.mark.provokes("history")
def test_a_disk_that_refuses_delays_nobody_and_is_told(tmp_path: Path) -> None:
    with capture_logs() as log:
        history = History(tmp_path / "missing" / "history.db", 90, 1000)
        history.add(entry(1))
        history.close()
    assert [each["event"] for each in log] == ["The history could not be written."]


def test_without_a_file_nothing_is_kept() -> None:
    history = History(None, 90, 1000)
    history.asked("db1", "asked for handover/commit", "uid 0")
    assert history.asker("db1") == "uid 0"
    assert history.asker("db2") == "agent"
    history.close()
    assert read(history.file, "", 0, 10) == ()


class Lun:
    name, nexuses = "disk0", 1

    def __init__(self, *answers: Response | AnswerLost) -> None:
        self.answers = list(answers)

    async def execute(self, command: Command) -> Response:
        answer = self.answers.pop(0)
        if isinstance(answer, AnswerLost):
            raise answer
        return answer

    async def close(self) -> None:
        pass


def test_what_the_lun_answers_is_in_it_and_what_changes_nothing_is_not(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    history = History(file, 90, 1000)
    lun = Lun(Response(Status.GOOD), Response(Status.RESERVATION_CONFLICT), AnswerLost("disk0", "cut"))
    path = RecordedPath(lun, history, "db1", lambda: "naa.1")

    async def test() -> None:
        CAUSE.set(Cause("uid 0", "h1"))
        await path.execute(out_command(OutServiceAction.REGISTER, 5, 5))
        preempt = out_command(
            OutServiceAction.PREEMPT, 5, 6, type=ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
        )
        await path.execute(preempt)
        with pytest.raises(AnswerLost):
            await path.execute(preempt)

    asyncio.run(test())
    history.close()
    found = read(file, "", 0, 10)
    assert [(each.what, each.by, each.handover_id, each.answer) for each in found] == [
        ("PREEMPT", "uid 0", "h1", "RESERVATION CONFLICT"),
        ("PREEMPT", "uid 0", "h1", "no answer: cut"),
    ]
    assert (found[0].key, found[0].new_key, found[0].type) == ("0x5", "0x6", 5)


def test_a_handover_is_told_from_the_request_to_the_answers_of_the_lun(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            files = {}
            for name, host in set_up.hosts.items():
                files[name] = tmp_path / f"{name}.db"
                # the agents of these tests have their journals in memory, and so keep no history
                host.history.__init__(files[name], 90, 1000)  # type: ignore[misc]
            guest = set_up.guest_on("host-a")
            await guest.register()
            await guest.reserve(ReservationType.WRITE_EXCLUSIVE)
            a = set_up.clients["host-a"]
            await a.prepare(GUEST, "h1", "host-b")
            await a.commit(GUEST, "h1")
            await a.finish(GUEST, "h1")
            hosts = list(set_up.hosts.values())
        for host in hosts:
            await asyncio.to_thread(host.history.close)
        here, there = (read(files[name], GUEST, 0, 1000) for name in ("host-a", "host-b"))
        assert [each.what for each in here if each.by == "guest"] == ["REGISTER", "RESERVE"]
        asked = [each for each in here if each.what.startswith("asked for")]
        assert [each.what for each in asked] == [
            f"asked for handover/{step}" for step in ("prepare", "commit", "finish")
        ]
        assert all(each.by.startswith("uid ") for each in asked)
        moved = [each for each in there if each.what == "PREEMPT"]
        assert [(each.by, each.handover_id, each.answer) for each in moved] == [("host host-a", "h1", "GOOD")]
        assert hex(KEY) in (moved[0].key, moved[0].new_key)

    asyncio.run(test())


def test_since() -> None:
    now = datetime.datetime(2026, 11, 27, 13, tzinfo=datetime.UTC)
    assert begin_of("2d", now) == now.timestamp() - 2 * 86400
    assert begin_of("30m", now) == now.timestamp() - 1800
    assert begin_of("2026-11-27T13:00+00:00", now) == now.timestamp()
    with pytest.raises(ValueError, match="write 30m, 12h or 2d"):
        begin_of("yesterday", now)
