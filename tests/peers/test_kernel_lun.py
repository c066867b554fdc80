"""The logical unit beside the kernel's own: 20,000 reservation commands, and what each leads to.

Where they answer differently a clause of a standard is on the side of ours, or none decides; each such place
is a row of `lun_differences` and of docs/design.md. Any other difference fails, with the shortest sequence
that shows it. `python -m tests.peers.test_kernel_lun COMMANDS [SEED]` compares more, and others than here.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.peers.kernel_inside_lun import Figures
from tests.peers.lun_differences import DIFFERENCES, EXAMPLES
from tests.rig.kernel import observe

pytestmark = pytest.mark.xdist_group("kernel")

_LONGEST = 60
_PIECE = 1400  # sequences; a kernel is booted for each piece


def compare(folder: Path, sequences: int, seed: str = "") -> Figures:
    """Compare so many sequences, in a kernel of their own."""
    arguments = (str(sequences), str(_LONGEST), seed)
    seen = observe("tests.peers.kernel_inside_lun", folder, *arguments, nexuses=4, timeout=1800.0)
    return msgspec.convert(seen, Figures)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return compare(tmp_path_factory.mktemp("kernel"), _PIECE)


@pytest.mark.peer("user-mode-linux")
def test_the_same_commands_lead_to_the_same_state(figures: Figures) -> None:
    assert not figures.failure, figures.failure
    assert figures.commands >= 20_000
    assert sum(figures.known.values()) < figures.commands / 3, "most answers are the same"
    assert sum(figures.cuts.values()) < figures.sequences * 2 / 3, "most sequences go to their end"


@pytest.mark.peer("user-mode-linux")
def test_a_difference_that_is_no_more_has_no_place_in_the_table(figures: Figures) -> None:
    assert set(figures.known) == set(EXAMPLES)


@pytest.mark.peer("user-mode-linux")
def test_the_commands_meet_every_kind_of_state(figures: Figures) -> None:
    """Each type of reservation, with one, two and three registrations."""
    assert len(figures.held) == 4 + 6 * 3


def test_every_difference_is_documented() -> None:
    design = (Path(__file__).resolve().parents[2] / "docs" / "design.md").read_text()
    assert {each.name for each in DIFFERENCES} < set(EXAMPLES)
    assert [name for name in EXAMPLES if f"| {name} |" not in design] == []


def main(commands: str, seed: str = "1") -> None:
    """Compare so many commands by hand, piece by piece, and print the figures."""
    sums: dict[str, Counter[str]] = {
        "known": Counter(),
        "cuts": Counter(),
        "held": Counter(),
        "ends": Counter(),
    }
    done, sequences, seconds, piece = 0, 0, 0.0, int(seed)
    while done < int(commands):
        with tempfile.TemporaryDirectory() as folder:
            figures = compare(Path(folder), _PIECE, str(piece))
        if figures.failure:
            sys.exit(f"seed {piece}:\n{figures.failure}")
        for name, sum_ in sums.items():
            sum_.update(getattr(figures, name))
        done, sequences = done + figures.commands, sequences + figures.sequences
        seconds, piece = seconds + figures.seconds, piece + 1
        print(f"{done} commands, {sequences} sequences, {seconds:.0f} s", flush=True)
    for name, sum_ in sums.items():
        print(name, *(f"{count:9} {what}" for what, count in sum_.most_common()), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
