"""How reservation keys are written."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from holdover.scsi.reservation.key import key_text, registered_key_text

KEYS = st.integers(0, 2**64 - 1)


@given(KEYS)
def test_a_key_survives_a_reader_that_knows_only_floating_point_numbers(key: int) -> None:
    read = json.loads(json.dumps(key_text(key)), parse_int=float)
    assert int(read, 16) == key
    assert read == read.lower()


@given(KEYS)
def test_key_0_is_no_registration(key: int) -> None:
    assert registered_key_text(key) == (key_text(key) if key else None)
