"""The logical unit beside the kernel's own: thousands of reservation commands, and what each leads to.

Where they answer differently a clause of a standard is on the side of ours, or none decides; each such place
is a row of `lun_differences` and of docs/develop/design.md. Any other difference fails, with the shortest
sequence that shows it. `python -m tests.peers.test_kernel_lun COMMANDS [SEED [iscsi]]` compares
more, and others.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from tests.peers.kernel_inside_lun import Figures
from tests.peers.lun_differences import DIFFERENCES, EXAMPLES
from tests.rig.amounts import amount
from tests.rig.kernel import observe

pytestmark = pytest.mark.xdist_group("kernel")

_LONGEST = 60
_PIECE = 1400  # sequences; a kernel is booted for each piece
# through which fabric of the kernel's target, and how many of the rig's disks that takes
_INSIDE = {"loopback": ("kernel_inside_lun", 4), "iscsi": ("kernel_inside_lun_iscsi", 1)}


def compare(folder: Path, fabric: str, sequences: int, seed: str = "") -> Figures:
    """Compare so many sequences, in a kernel of their own."""
    module, disks = _INSIDE[fabric]
    arguments = (str(sequences), str(_LONGEST), seed)
    seen = observe(f"tests.peers.{module}", folder, *arguments, nexuses=disks, timeout=1800.0)
    return msgspec.convert(seen, Figures)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Figures]:
    counts = {"loopback": amount(400, _PIECE), "iscsi": amount(100, 250)}
    return {each: compare(tmp_path_factory.mktemp(each), each, count) for each, count in counts.items()}


@pytest.mark.peer("user-mode-linux")
@pytest.mark.parametrize(
    ("fabric", "least"), [("loopback", amount(5_000, 20_000)), ("iscsi", amount(1_000, 3_000))]
)
def test_the_same_commands_lead_to_the_same_state(
    figures: Mapping[str, Figures], fabric: str, least: int
) -> None:
    seen = figures[fabric]
    assert not seen.failure, seen.failure
    assert seen.commands >= least
    assert sum(seen.known.values()) < seen.commands / 3, "most answers are the same"
    assert sum(seen.cuts.values()) < seen.sequences * 2 / 3, "many sequences go to their end"


@pytest.mark.peer("user-mode-linux")
def test_a_difference_that_is_no_more_has_no_place_in_the_table(figures: Mapping[str, Figures]) -> None:
    assert {name for each in figures.values() for name in each.known} == set(EXAMPLES)


@pytest.mark.peer("user-mode-linux")
def test_the_commands_meet_every_kind_of_state(figures: Mapping[str, Figures]) -> None:
    """Each type of reservation, with one, two and three registrations, and none."""
    assert len(figures["loopback"].held) == 4 + 6 * 3


@pytest.mark.peer("user-mode-linux")
def test_preempt_and_abort_is_answered_through_iscsi(figures: Mapping[str, Figures]) -> None:
    assert figures["iscsi"].ends["PREEMPT_AND_ABORT: GOOD"] > amount(3, 10)


def test_every_difference_is_documented() -> None:
    design = (Path(__file__).resolve().parents[2] / "docs" / "develop" / "design.md").read_text()
    assert {each.name for each in DIFFERENCES} < set(EXAMPLES)
    assert [name for name in EXAMPLES if f"| {name} |" not in design] == []


def main(commands: str, seed: str = "1", fabric: str = "loopback") -> None:
    """Compare so many commands by hand, piece by piece, and print the figures."""
    sums: dict[str, Counter[str]] = {name: Counter() for name in ("known", "cuts", "held", "ends")}
    done, sequences, seconds, piece = 0, 0, 0.0, int(seed)
    while done < int(commands):
        with tempfile.TemporaryDirectory() as folder:
            seen = compare(Path(folder), fabric, _PIECE, str(piece))
        if seen.failure:
            sys.exit(f"seed {piece}:\n{seen.failure}")
        for name, sum_ in sums.items():
            sum_.update(getattr(seen, name))
        done, sequences = done + seen.commands, sequences + seen.sequences
        seconds, piece = seconds + seen.seconds, piece + 1
        print(f"{done} commands, {sequences} sequences, {seconds:.0f} s", flush=True)
    for name, sum_ in sums.items():
        print(name, *(f"{count:9} {what}" for what, count in sum_.most_common()), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
