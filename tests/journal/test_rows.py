"""Records as rows and back, and the sum of all rows."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given

from holdover.journal._rows import GUEST, Seal, checksum, record_of, row_of, seal_of
from holdover.journal.records import Record
from tests.journal.support import device, guest, records, step


@given(records)
def test_a_row_is_the_record_again(record: Record) -> None:
    row = row_of(record, 7)
    assert record_of(row.table, row.values) == record
    assert row.checksum == checksum(row.table.name, row.values)


def test_a_checksum_tells_tables_types_and_places_apart() -> None:
    sums = {
        checksum("guest", ("a", "b")),
        checksum("device", ("a", "b")),
        checksum("guest", ("ab", "")),
        checksum("guest", ("a", b"b")),
        checksum("guest", (1, None)),
        checksum("guest", (1.0, None)),
        row_of(step(), 1).checksum,
        row_of(step(), 2).checksum,
        row_of(step(is_open=False), 1).checksum,
    }
    assert len(sums) == 9


@pytest.mark.parametrize("at", [math.nan, math.inf, -math.inf])
def test_a_time_is_a_number(at: float) -> None:
    with pytest.raises(ValueError, match=r"handover h1: at = .* is not a time"):
        row_of(step(at=at), 1)


def test_times_that_sqlite_writes_otherwise_are_made_so() -> None:
    assert str(row_of(step(at=-0.0), 1).values[-1]) == "0.0"
    assert type(row_of(step(at=5), 1).values[-1]) is float


def test_a_text_must_be_one() -> None:
    with pytest.raises(UnicodeEncodeError):
        row_of(guest("\ud800"), 1)


def test_values_of_the_wrong_types_are_no_record() -> None:
    with pytest.raises(msgspec.ValidationError):
        record_of(GUEST, ("a", 5, "m", "o", ""))


def test_a_seal_follows_what_comes_and_goes() -> None:
    rows = [row_of(record, 1).checksum for record in (guest("a"), guest("b"), device())]
    seal = Seal(b"i" * 16).changed(removed=[], added=rows)
    assert (seal.sequence, seal.rows) == (1, 3)
    assert seal.changed(removed=rows[:2], added=[]) == Seal(b"i" * 16, 2, 1, int.from_bytes(rows[2]))
    assert seal.changed(removed=rows, added=[]) == Seal(b"i" * 16, 2, 0, 0)
    assert seal_of(seal.values()) == seal


def test_a_seal_that_was_changed_is_none() -> None:
    identity, sequence, *rest = Seal(b"i" * 16, 5).values()
    assert seal_of((identity, sequence, *rest)) == Seal(b"i" * 16, 5)
    assert seal_of((identity, 6, *rest)) is None
    assert seal_of((1, 2, 3, 4, checksum("seal", (1, 2, 3, 4)))) is None
