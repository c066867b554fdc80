from __future__ import annotations

import io

from bench.libvirt import show, times
from rich.console import Console


def test_events_of_other_guests_and_other_events_do_not_count() -> None:
    printed = (
        'event MIGRATION at 1795820063.220690 for domain \'db1\': {"status":"pre-switchover"}\n'
        "event STOP at 1795820063.219545 for domain 'db1': <null>\n"
        "event RESUME at 1795820063.3 for domain 'web': <null>\n"
        "event RESUME at 1795820064.250000 for domain 'db1': <null>\n"
    )
    assert times(printed) == [("STOP", 1795820063.219545), ("RESUME", 1795820064.25)]


def test_the_table_has_what_the_reservation_adds_in_each_round() -> None:
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(
        show({"stock": [10.0, 100.0, 30.0], "question": [20.0, 110.0, 60.0], "events": [15.0, 105.0, 45.0]})
    )
    rows = [line.split() for line in console.export_text().splitlines()[1:]]
    assert rows == [
        ["stock", "3", "30", "10", "100"],
        ["question", "3", "60", "20", "110", "10", "2.00"],
        ["events", "3", "45", "15", "105", "5", "1.50"],
    ]
