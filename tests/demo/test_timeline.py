"""The timeline in the terminal and on the page."""

from __future__ import annotations

from html.parser import HTMLParser

from rich.console import Console

from holdover.demo.act import Act, Sums
from holdover.demo.messages import Tick
from holdover.demo.page import page
from holdover.demo.timeline import buckets, draw, steps_of, table
from holdover.demo.watching import Recording
from holdover.migrate.result import Progress


def recording() -> Recording:
    made = Recording(began=100.0)
    made.ticks = [
        Tick(100.1, "guest", 5, 0),
        Tick(100.15, "guest", 5, 0),
        Tick(101.9, "guest", 0, 3, "RESERVATION CONFLICT"),
        Tick(101.0, "intruder", 0, 7),
        Tick(109.0, "guest", 1, 0),
    ]
    step = Progress(phase="commit", action="preempt", host="host-b", state="done", at=1.0, milliseconds=500)
    begin = Progress(phase="commit", action="preempt", host="host-b", state="begins", at=0.5)
    made.steps = [(0.5, begin), (1.0, step)]
    made.stopped, made.resumed, made.ended = 0.5, 1.0, 2.0
    return made


def act(migrate_pr: bool, errors: int) -> Act:
    sums = Sums(
        guest_writes=10,
        guest_write_errors=errors,
        intruder_writes_accepted=0,
        intruder_writes_refused=7,
        holder_before="iqn.2026-11.org.holdover:host-a,i,0x80",
        holder_after=None,
        standstill_ms=500.0,
        blocks_verified=10,
        blocks_damaged=0,
    )
    return Act(migrate_pr, sums, recording())


def test_ticks_fall_into_their_buckets_and_what_is_outside_is_left_out() -> None:
    lane = buckets(recording(), "guest", 4, 2.0)
    assert [(bucket.accepted, bucket.refused) for bucket in lane] == [(10, 0), (0, 0), (0, 0), (0, 3)]
    assert [bucket.refused for bucket in buckets(recording(), "intruder", 4, 2.0)] == [0, 0, 7, 0]


def test_steps_have_a_beginning_and_an_end() -> None:
    assert steps_of(recording()) == [("preempt", "host-b", 0.5, 1.0)]


def test_the_lanes_as_they_are_drawn() -> None:
    console = Console(width=60, record=True, color_system=None)
    console.print(draw("title", recording(), 8, 2.0))
    lines = console.export_text().splitlines()
    assert lines[1].removeprefix("guest's writes").strip(" ") == "█      x"
    assert lines[2].removeprefix("intruder's writes").strip(" ") == "·"
    assert lines[3].removeprefix("guest is on host").strip(" ") == "aa▒▒bbbb"


def test_the_table_shows_both_acts() -> None:
    console = Console(width=100, record=True, color_system=None)
    console.print(table([act(False, 3), act(True, 0)]))
    text = console.export_text()
    assert "migrate-pr=off" in text
    row = next(line for line in text.splitlines() if line.startswith("guest's writes refused"))
    assert row.split()[-2:] == ["3", "0"]
    assert "nobody" in text


def test_the_page_is_whole_and_fetches_nothing() -> None:
    text = page([act(False, 3), act(True, 0)])
    open_tags: list[str] = []

    class Check(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "img", "iframe")
            for name, value in attrs:
                assert name not in ("src", "href"), value
            if tag not in ("meta", "line", "rect"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            if tag not in ("line", "rect"):
                assert open_tags.pop() == tag

    Check().feed(text)
    assert open_tags == []
    assert text.count("<svg") == 4
    assert "RESERVATION" not in text
    assert '<span class="bad">3</span>' in text
