"""What Holdover answers when libvirt asks about a guest: a table, from what is asked and what is known.

When a QEMU begins, a child of libvirtd asks before it becomes QEMU; QEMU then starts paused. libvirtd asks
whether the guest may run before its CPUs start, and also after they have stopped. For a guest without
lockable disks these two look alike, so `decide` answers the question whether it may run. When the QEMU has
ended, nobody asks, but there may be something to do.

libvirt passes on QEMU's own events, too, where the agent subscribes to them. `observe` returns what to do
after one of them. No event is needed: without them the source commits when the destination asks.

`decide` returns an answer, or one thing to do. After that is done, what is known is read again, and `decide`
is asked again. Whoever carries out a decision answers within a limit; `decide` does not know the time.

Rules for whoever edits the tables:

- While no handover moves the guest away from this host, the answer is yes, whatever other hosts say.
- A guest that this host and its peers do not know starts: yes.
- The source commits if it has heard from libvirt that the guest has stopped, and not since that it goes on,
  or if its QEMU has ended.
- At most one host is *granted*. The destination records it before it answers, and never after it has told the
  source that it has not granted.
- QEMU may resume the guest by itself, without a question, until all of the guest is sent. So at
  pre-switchover the source commits only a guest whose I/O waits at the agent's gate; of others it waits for
  the end of the sending. A guest that goes on by itself is taken back.
- A fresh QEMU does not run on the destination of a committed handover while the source's QEMU lives.
- A QEMU that begins only prepares a handover: it is paused, and *may it run* is asked before it runs.
- In post-copy a refusal loses the guest: try again instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Question(Enum):
    """What is asked of this host about a guest."""

    BEGINS = "a QEMU of the guest begins here"
    MAY_RUN = "may the guest run here"
    ENDED = "the QEMU of the guest has ended here"


class Seen(Enum):
    """What libvirt passes on from a QEMU of a guest on this host."""

    PRE_SWITCHOVER = "the guest has stopped, and QEMU is about to send the last of it"
    SENT = "all of the guest is sent; from now on QEMU does not resume it by itself"
    RUNS = "the guest runs"


class Whereabouts(Enum):
    """Where a guest is, as this host's own records have it."""

    NOT_TRACKED = "this host knows no such guest, or none of its disks"
    HERE = "it is here, and no handover moves it"
    LEAVING = "it is here, and a handover to another host is prepared or begins"
    LEFT = "a handover has moved it to another host, or may have"
    COMING = "it is on another host, and a handover to here is prepared"
    COME = "a handover has moved it here, and the source has not ended that yet"
    AWAY = "it is known here, is not here, and no handover moves it"


class Other(Enum):
    """What other hosts say of a guest."""

    UNASKED = "they were not asked"
    NOBODY = "all were asked, and none has it"
    RUNS = "one has it, and its QEMU there lives"
    ENDED = "one has it, and no QEMU of it lives there"
    GRANTED = "the destination has let it run, and its QEMU there lives"
    NOT_GRANTED = (
        "the destination has not let it run, or its QEMU there has ended; it will not let it run now"
    )
    UNREACHABLE = "one cannot be asked, and none of the others has it"


class Task(Enum):
    """What to do before `decide` is asked again, or, after `Question.ENDED`, at all."""

    ASK_ALL = "ask all peers who has the guest"
    ASK_DESTINATION = "ask the destination whether it has let the guest run; if not, it must not from now on"
    ASK_SOURCE = "ask the source of the handover whether the guest's QEMU there lives"
    PREPARE = "ask the host that has the guest to prepare a handover to here"
    COMMIT = "ask the source to commit"
    COMMIT_HERE = "commit the handover, of which this host is the source"
    GRANT = "record that the guest may run here"
    OPEN = "let the guest's commands pass here"
    ROLL_BACK = "roll back the handover, of which this host is the source"
    ASK_ROLL_BACK = "ask the source to roll back"
    FINISH = "finish the handover, of which this host is the source"
    TRY_AGAIN = "wait a moment"


class Refusal(Enum):
    """Why a guest may not run here: the text that libvirt's user reads."""

    RUNS_THERE = "guest {guest} runs on {peer}; it must not run on {host} too; use it on {peer}"
    IN_DOUBT = (
        "it is in doubt whether guest {guest} runs on {peer}: {why}. See to it, then try again; if {peer} "
        "is dead: holdover handover status {guest} on {host} says what comes next"
    )
    FROM_NOWHERE = (
        "guest {guest} is being migrated to {host}, but no agent with its reservations knows of this "
        "migration; see that the agent and libvirt's lock_manager run on the source (holdover libvirt check)"
    )
    NOT_HANDED_OVER = "guest {guest} is not handed over from {peer} to {host}: {why}. It stays on {peer}"
    QEMU_ENDED = (
        "the QEMU of guest {guest} on {host} has ended, or libvirt no longer waits for the answer; it stays "
        "on {peer}"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What this host knows when it is asked about a guest.

    Attributes:
        place: Where the guest is, by this host's records.
        other: What other hosts have said since the question came.
        incoming: Whether the QEMU here was started for a migration.
        alive: Whether the QEMU here, and the connection that asks, still live.
        granted: Whether the present handover's guest was let run here.
        post_copy: Whether the QEMU here gets its memory by post-copy.
        failed: Whether the last task has failed.
        stopped: Whether libvirt has said, since the handover began, that the guest has stopped here, and not
            since then that it goes on.
        gated: Whether all of the guest's I/O passes the agent's gate here, and so waits while that is shut.
    """

    place: Whereabouts
    other: Other = Other.UNASKED
    incoming: bool = False
    alive: bool = True
    granted: bool = False
    post_copy: bool = False
    failed: bool = False
    stopped: bool = False
    gated: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """One of these: yes, a refusal, or a task after which to decide again. None of them: there is nothing
    to do."""

    yes: bool = False
    refusal: Refusal | None = None
    task: Task | None = None


NO_HANDOVER = frozenset({Whereabouts.NOT_TRACKED, Whereabouts.HERE, Whereabouts.LEAVING})
"""The places in which no handover has moved the guest away: the answer is yes."""

_YES, _NOTHING = Decision(yes=True), Decision()


def _do(task: Task) -> Decision:
    return Decision(task=task)


def _no(refusal: Refusal) -> Decision:
    return Decision(refusal=refusal)


_ByOther = Mapping[Other, Decision]
_IN_DOUBT = _no(Refusal.IN_DOUBT)
_RUNS_THERE = _no(Refusal.RUNS_THERE)

_LEFT: _ByOther = {
    Other.UNASKED: _do(Task.ASK_DESTINATION),
    Other.GRANTED: _RUNS_THERE,
    Other.NOT_GRANTED: _do(Task.ROLL_BACK),
}
_BEGINS: Mapping[Whereabouts, _ByOther] = {
    Whereabouts.NOT_TRACKED: {
        Other.UNASKED: _do(Task.ASK_ALL),
        Other.NOBODY: _YES,
        Other.UNREACHABLE: _YES,
        Other.RUNS: _do(Task.PREPARE),
        Other.ENDED: _do(Task.PREPARE),
    },
    Whereabouts.LEFT: _LEFT,
    Whereabouts.AWAY: {
        Other.UNASKED: _do(Task.ASK_ALL),
        Other.NOBODY: _YES,
        Other.RUNS: _do(Task.PREPARE),
        Other.ENDED: _do(Task.PREPARE),
    },
}
"""What is missing for a place: yes. What is missing for what others say: in doubt."""

_FRESH: Mapping[Whereabouts, _ByOther] = {
    Whereabouts.LEFT: _LEFT,
    Whereabouts.COMING: {
        Other.UNASKED: _do(Task.ASK_ALL),
        Other.RUNS: _RUNS_THERE,
        Other.ENDED: _do(Task.COMMIT),
    },
    Whereabouts.COME: {
        Other.UNASKED: _do(Task.ASK_SOURCE),
        Other.RUNS: _RUNS_THERE,
        Other.ENDED: _do(Task.GRANT),
    },
    Whereabouts.AWAY: {
        Other.UNASKED: _do(Task.ASK_ALL),
        Other.NOBODY: _do(Task.OPEN),
        Other.RUNS: _RUNS_THERE,
        Other.ENDED: _do(Task.PREPARE),
    },
}
_INCOMING: Mapping[Whereabouts, _ByOther] = {
    Whereabouts.LEFT: _LEFT,
    Whereabouts.COMING: dict.fromkeys(Other, _do(Task.COMMIT)),
    Whereabouts.COME: dict.fromkeys(Other, _do(Task.GRANT)),
    Whereabouts.AWAY: {
        Other.UNASKED: _do(Task.ASK_ALL),
        Other.NOBODY: _no(Refusal.FROM_NOWHERE),
        Other.RUNS: _do(Task.PREPARE),
        Other.ENDED: _do(Task.PREPARE),
    },
}
_GOES_ON: _ByOther = {
    Other.UNASKED: _do(Task.ASK_DESTINATION),
    Other.GRANTED: _RUNS_THERE,
    Other.NOT_GRANTED: _do(Task.ROLL_BACK),
}
"""The source's QEMU runs the guest after the commit. What is missing: try again."""
_ARRIVES = frozenset({Whereabouts.COMING, Whereabouts.COME})


def decide(question: Question, known: Known) -> Decision:
    """The answer to a question, or the task to do first."""
    if question is Question.ENDED:
        return _ended(known)
    if known.place in NO_HANDOVER and not (
        question is Question.BEGINS and known.place is Whereabouts.NOT_TRACKED
    ):
        return _YES
    decision = _begins(known) if question is Question.BEGINS else _may_run(known)
    if known.post_copy and known.alive and decision.refusal is not None:
        return _do(Task.TRY_AGAIN)
    return decision


def _begins(known: Known) -> Decision:
    if known.failed:
        return _failure(known)
    table = _BEGINS.get(known.place)
    return _YES if table is None else table.get(known.other, _IN_DOUBT)


def _may_run(known: Known) -> Decision:
    if known.place is not Whereabouts.LEFT and not known.alive:
        return _no(Refusal.QEMU_ENDED)
    if known.failed:
        return _failure(known)
    if known.place is Whereabouts.COME and known.granted:
        return _YES
    tables = _INCOMING if known.incoming else _FRESH
    return tables[known.place].get(known.other, _IN_DOUBT)


def _failure(known: Known) -> Decision:
    return _IN_DOUBT if known.place is Whereabouts.LEFT else _no(Refusal.NOT_HANDED_OVER)


def _ended(known: Known) -> Decision:
    if known.place in _ARRIVES and not known.granted:
        return _do(Task.ASK_ROLL_BACK)
    if known.place is Whereabouts.LEFT:
        return _do(Task.FINISH)
    return _NOTHING


def observe(seen: Seen, known: Known) -> Decision:
    """What to do after libvirt has passed on something about a QEMU here; nothing, where it does not matter.

    A refusal cannot be told to libvirt, which has not asked; it is for the log.
    """
    if seen is Seen.RUNS:
        if known.place is not Whereabouts.LEFT:
            return _NOTHING
        return _do(Task.TRY_AGAIN) if known.failed else _GOES_ON.get(known.other, _do(Task.TRY_AGAIN))
    commits = known.place is Whereabouts.LEAVING and known.stopped and not known.failed
    return _do(Task.COMMIT_HERE) if commits and (seen is Seen.SENT or known.gated) else _NOTHING
