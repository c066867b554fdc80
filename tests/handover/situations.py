"""The situations of which `tests/handover/transcripts` has a transcript each.

``python -m tests.handover.situations`` writes the transcripts anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.handover.explore import CASES, PATH_CASES
from tests.handover.transcript import Script, Situation, play
from tests.handover.world import Case

FOLDER = Path(__file__).parent / "transcripts"

_PREPARE = "prepare"
_COMMIT = "the guest stops, commit"
_START = "the guest starts on the destination"
_ROLL_BACK = "roll back"
_BACK = "the guest stops on the destination, roll back"
_TO_FINISH = (_PREPARE, _COMMIT, _START, "finish")
_TO_ROLL_BACK = (_PREPARE, _COMMIT, _ROLL_BACK)
_NO_ANSWER = "the source has no answer: given up"


def _plain(title: str, *cases: Case, steps: Sequence[str] = _TO_FINISH) -> Situation:
    return Situation(title, cases, (Script(tuple(steps)),))


def _crashes(side: str, case: Case, steps: tuple[str, ...], states: Sequence[tuple[int, str]]) -> Situation:
    """``side`` crashes in each of these states; each comes after so many of the steps."""
    scripts = []
    for count, state in states:
        crash = f"{state} on {side}: the {side} crashes"
        scripts.append(Script((*steps[:count], crash), f'In the state "{state}"', from_step=count))
    return Situation(f"The {side} crashes in each state of its own, {_of(steps)}", (case,), tuple(scripts))


def _of(steps: tuple[str, ...]) -> str:
    return "as the guest goes back" if _ROLL_BACK in steps else "as the guest moves"


_HOLDER = CASES["holder"]

SITUATIONS = {
    "holder": _plain("A guest moves that holds its reservation alone", _HOLDER),
    "key-shared": _plain(
        "A guest moves that has its key in common with a third node", CASES["holder, key shared"]
    ),
    "all-registrants": _plain("A guest moves that is one of all registrants", CASES["one of all"]),
    "registrant": _plain("A guest moves that has no reservation", CASES["registrant"]),
    "not-registered": _plain("A guest moves that is not registered", CASES["not registered"]),
    "two-luns": _plain(
        "A guest moves with two LUNs, and holds one of them",
        _HOLDER,
        CASES["registrant, key shared"],
    ),
    "rolled-back-prepared": _plain("A guest that was prepared stays", _HOLDER, steps=(_PREPARE, _ROLL_BACK)),
    "rolled-back-committed": _plain(
        "A guest that was committed stays, and has not run on the destination",
        _HOLDER,
        steps=_TO_ROLL_BACK,
    ),
    "rolled-back-after-a-change": _plain(
        "A guest goes back that has changed its key on the destination",
        _HOLDER,
        steps=(_PREPARE, _COMMIT, _START, "the guest's REGISTER 0xb on the destination on LUN 0", _BACK),
    ),
    "changed-while-prepared": _plain(
        "A guest changes its key while it is prepared",
        _HOLDER,
        steps=(_PREPARE, "the guest's REGISTER 0xb on LUN 0", _COMMIT),
    ),
    "commit-amid-a-recheck": _plain(
        "A commit is asked for while what was prepared is looked at once more",
        _HOLDER,
        steps=(_PREPARE, "check", "confirming on source: the guest stops, commit amid a check"),
    ),
    "fenced-while-prepared": _plain(
        "A third node fences the guest while it is prepared",
        CASES["holder beside a third"],
        steps=(_PREPARE, "the third preempts the guest on LUN 0", _COMMIT, _START, "finish"),
    ),
    "commit-not-answered": _plain(
        "The answer to the commit is lost, and the destination answers the next one",
        _HOLDER,
        steps=(_PREPARE, _COMMIT, "committed on destination: an answer 2 is lost"),
    ),
    "preempt-not-answered": _plain(
        "The LUN does not answer the PREEMPT, which was carried out",
        _HOLDER,
        steps=(
            _PREPARE,
            _COMMIT,
            "preempting on destination: destination: PREEMPT 0xa 0xa on LUN 0, carried out, its answer lost",
        ),
    ),
    "committed-and-not-on-record": _plain(
        "Both hosts crash when the commit was told and neither has it on record",
        _HOLDER,
        steps=(
            _PREPARE,
            _COMMIT,
            "committed on destination: the destination crashes",
            "committed on source: the source crashes",
            _START,
        ),
    ),
    "destination-away": _plain(
        "The network parts while a guest is committed, and the source goes on alone",
        _HOLDER,
        steps=(
            _PREPARE,
            _COMMIT,
            "committing on source: the network parts",
            _NO_ANSWER,
            _NO_ANSWER,
        ),
    ),
    "taken": _plain(
        "The source is dead, and the destination takes what was prepared",
        _HOLDER,
        steps=(_PREPARE, _COMMIT, "committing on source: the source crashes", "the source is declared dead"),
    ),
    "paths-degraded": _plain(
        "A guest moves from a host of two paths, of which one is away", PATH_CASES["row A"]
    ),
    "path-comes-back": _plain(
        "A path of the source comes back while its guest is prepared, with a third node's same key",
        PATH_CASES["row C"],
        steps=(_PREPARE, "path 1 of the source comes back", _COMMIT, _START, "finish"),
    ),
    "by-port": _plain(
        "A guest moves on an array that keeps one registration for each initiator port",
        PATH_CASES["by port"],
    ),
    "crash-of-the-source": _crashes(
        "source",
        CASES["holder, key shared"],
        _TO_FINISH,
        (
            (1, "preparing"),
            (1, "prepared"),
            (2, "giving"),
            (2, "committing"),
            (2, "committed"),
            (4, "settling"),
            (4, "telling"),
        ),
    ),
    "crash-of-the-destination": _crashes(
        "destination",
        CASES["holder, key shared"],
        _TO_FINISH,
        ((1, "registering"), (1, "prepared"), (2, "preempting"), (2, "committed"), (4, "verifying")),
    ),
    "crash-of-the-source-going-back": _crashes(
        "source",
        _HOLDER,
        _TO_ROLL_BACK,
        ((3, "closing"), (3, "asking"), (3, "reclaiming"), (3, "returning"), (3, "resuming")),
    ),
    "crash-of-the-destination-going-back": _crashes(
        "destination", _HOLDER, _TO_ROLL_BACK, ((3, "closed"), (3, "returning"), (3, "returned"))
    ),
}


def _main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, situation in SITUATIONS.items():
        (FOLDER / f"{name}.txt").write_text(play(situation))


if __name__ == "__main__":
    _main()
