"""What happens in a handover is what its transcripts say."""

from __future__ import annotations

import pytest

from tests.handover.situations import FOLDER, SITUATIONS
from tests.handover.transcript import play

_ANEW = "to write all of them anew, for review: .venv/bin/python -m tests.handover.situations"


@pytest.mark.parametrize("name", SITUATIONS)
def test_a_situation_ends_as_its_transcript_says(name: str) -> None:
    assert play(SITUATIONS[name]) == (FOLDER / f"{name}.txt").read_text(), _ANEW


def test_every_transcript_is_of_a_situation() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {f"{name}.txt" for name in SITUATIONS}
