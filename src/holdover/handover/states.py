"""The handover as two state machines, one on each host: all that decides, as tables.

Theory of operation. The *source* is the host that the guest leaves, the *destination* the one that it goes
to. Whoever drives the migration asks the source, in this order: prepare (the guest runs), commit (it has
stopped), finish (it runs on the destination); or roll back, whenever it stays. The source tells the
destination; the destination never asks anything of the source but whether a handover is over. So there is one
place in which a handover is decided: the state of `Source`.

Every state has one activity, which begins when the state is entered: work on all LUNs of the guest at once
(`holdover.handover.work`), or a message to the destination. How that ends is an event, and the tables below
say which state follows. The effects of a transition are carried out in their order, the journal's first.

Rules for whoever edits this file:

- To enter a state twice must be harmless: that is how a host goes on after a crash, and how it tries again.
- A message that is lost, late or doubled must be harmless. Messages of a handover are numbered; one that
  is older than the last is refused, the last is answered again.
- A source that begins anew may have been declared dead: before it changes anything on a LUN, it hears what
  the destination has to say.
- A crash of the source before it has answered "committed" rolls back, since nobody was told that the guest
  may run elsewhere. A crash after that changes nothing.
- What is not known is asked of the LUN. Where it cannot be asked, the state stays and says so.
- The diagrams in the documentation are drawn from these tables; the model checker in the tests runs them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from holdover.guest.gate import Gate
from holdover.handover.work import Work

__all__ = [
    "DESTINATION",
    "DESTINATION_DOES",
    "EVENT_OF",
    "HINDERS",
    "ROLLS_BACK",
    "SOURCE",
    "SOURCE_DOES",
    "Choice",
    "DestinationState",
    "Does",
    "Event",
    "MessageKind",
    "SourceState",
    "table_of",
]


class SourceState(Enum):
    """Where a handover stands on the host that the guest leaves."""

    CHECKING = "checking"
    """Is what was tracked true? Nothing was changed yet."""
    PREPARING = "preparing"
    """The destination registers."""
    CONFIRMING = "confirming"
    """Is it still true, now that the destination has registered?"""
    PREPARED = "prepared"
    """Only what must wait for the guest to stop is left."""
    UNDOING = "undoing"
    """The destination removes its registration; the guest goes on running."""
    REVIEWING = "reviewing"
    """The destination could not: is what it was told still true?"""
    LEAVING = "leaving"
    """The guest has stopped: its commands wait, those in flight come to an end."""
    RECHECKING = "rechecking"
    """Something changed since it was prepared: what is true now?"""
    CATCHING_UP = "catching up"
    """The destination registers what has changed."""
    GIVING = "giving"
    """The source's part of the commit."""
    COMMITTING = "committing"
    """The destination's part of the commit."""
    COMMITTED = "committed"
    """The reservations are the destination's, the guest may run there."""
    SETTLING = "settling"
    """The guest runs there: its commands are refused here, unit attentions are cleared."""
    TELLING = "telling"
    """The destination closes the handover."""
    CONCEDING = "conceding"
    """The destination has taken, or is taking, everything without this host: it closes the handover then."""
    YIELDING = "yielding"
    """It has taken everything: what is still registered on this host's nexus is removed."""
    GONE = "gone"
    """The guest is on the destination. The end."""
    CLOSING = "closing"
    """Roll back: the destination shuts its gate."""
    ASKING = "asking"
    """Roll back: has the source's registration been lost?"""
    RECLAIMING = "reclaiming"
    """Roll back: the source's registration as it was."""
    RETURNING = "returning"
    """Roll back: the destination gives back what it has."""
    RESUMING = "resuming"
    """Roll back: the reservation moves back."""
    ISOLATING = "isolating"
    """Roll back without the destination, which cannot be reached: take a key that it has not."""
    EVICTING = "evicting"
    """Roll back without the destination: remove its registration."""
    INQUIRING = "inquiring"
    """Roll back without the destination, after a restart: has that taken everything meanwhile?"""
    STAYED = "stayed"
    """The guest is on the source with everything that it had. The end."""


class DestinationState(Enum):
    """Where a handover stands on the host that the guest goes to."""

    REGISTERING = "registering"
    """The guest's keys on this host's nexus."""
    PREPARED = "prepared"
    """Registered; the guest is still on the source."""
    FAILED = "failed"
    """What was asked last was not done, or half: the source will say what next."""
    PREEMPTING = "preempting"
    """This host's part of the commit."""
    COMMITTED = "committed"
    """The reservations are here, and the guest's commands pass."""
    CLOSING = "closing"
    """The gate is shut again; what is registered here?"""
    CLOSED = "closed"
    """The gate is shut; nothing more is preempted."""
    RETURNING = "returning"
    """Unregister, or make ready for the source's PREEMPT."""
    RETURNED = "returned"
    """The guest is not here. The end."""
    VERIFYING = "verifying"
    """The guest runs here: is all as it should be?"""
    HERE = "here"
    """The guest is here. The end."""
    CLAIMING = "claiming"
    """The source is dead: can everything be taken without it?"""
    ASSURING = "assuring"
    """The source is dead: is everything still here that was committed?"""
    TAKING = "taking"
    """The source is dead: take everything without it. There is no way back."""
    TAKEN = "taken"
    """Taken without the source, which is told when it comes back."""
    WITHDRAWING = "withdrawing"
    """The source has rolled back alone: remove what may be left."""


class Event(Enum):
    """What can happen to a handover."""

    ASKED_COMMIT = "commit"
    ASKED_ROLL_BACK = "roll back"
    ASKED_ALONE = "roll back alone"
    """Roll back without waiting for the destination any longer."""
    ASKED_FINISH = "finish"
    ASKED_CHECK = "check"
    """Is what was prepared still true? Asked every few seconds."""
    ASKED_TAKE = "take"
    DONE = "done"
    """The work was done on all LUNs."""
    FAILED = "failed"
    """The work could not be done on some LUN, or its LUN cannot be reached."""
    TOLD = "told"
    """The destination has done what it was told."""
    REFUSED = "refused"
    """It has not, or only on some LUNs, and says why."""
    TAKEN = "taken"
    """It has taken everything without the source."""
    UNREACHED = "unreached"
    """No answer: it may have done it."""
    GIVEN_UP = "given up"
    """No answer for as long as is to be waited."""
    CHANGED = "changed"
    """The guest has changed its registration or reservation."""
    RESTARTED = "restarted"
    """The agent has begun anew, with what the journal says."""
    OVER = "over"
    """The source says that it has rolled this handover back."""
    PREPARE = "PREPARE"
    COMMIT = "COMMIT"
    CLOSE = "CLOSE"
    RETURN = "RETURN"
    FINISH = "FINISH"


class MessageKind(Enum):
    """What the source tells the destination."""

    PREPARE = "prepare"
    COMMIT = "commit"
    CLOSE = "close"
    RETURN = "return"
    FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Does:
    """What a state does when it is entered."""

    gate: Gate
    work: Work | None = None
    message: MessageKind | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """Two states that may follow: ``yes`` if the handover is ``when``."""

    when: str
    yes: SourceState
    no: SourceState


_S, _D, _E, _M = SourceState, DestinationState, Event, MessageKind

SOURCE_DOES: Mapping[SourceState, Does] = {
    _S.CHECKING: Does(Gate.RUNNING, work=Work.CHECK),
    _S.PREPARING: Does(Gate.RUNNING, message=_M.PREPARE),
    _S.CONFIRMING: Does(Gate.RUNNING, work=Work.CONFIRM),
    _S.PREPARED: Does(Gate.RUNNING),
    _S.UNDOING: Does(Gate.RUNNING, message=_M.RETURN),
    _S.REVIEWING: Does(Gate.RUNNING, work=Work.CHECK),
    _S.LEAVING: Does(Gate.LEAVING, work=Work.DRAIN),
    _S.RECHECKING: Does(Gate.LEAVING, work=Work.CONFIRM),
    _S.CATCHING_UP: Does(Gate.LEAVING, message=_M.PREPARE),
    _S.GIVING: Does(Gate.LEAVING, work=Work.GIVE),
    _S.COMMITTING: Does(Gate.LEAVING, message=_M.COMMIT),
    _S.COMMITTED: Does(Gate.LEAVING),
    _S.SETTLING: Does(Gate.DEPARTED, work=Work.SETTLE),
    _S.TELLING: Does(Gate.DEPARTED, message=_M.FINISH),
    _S.CONCEDING: Does(Gate.DEPARTED, message=_M.FINISH),
    _S.YIELDING: Does(Gate.DEPARTED, work=Work.YIELD),
    _S.GONE: Does(Gate.DEPARTED),
    _S.CLOSING: Does(Gate.LEAVING, message=_M.CLOSE),
    _S.ASKING: Does(Gate.LEAVING, work=Work.ASK),
    _S.RECLAIMING: Does(Gate.LEAVING, work=Work.RECLAIM),
    _S.RETURNING: Does(Gate.LEAVING, message=_M.RETURN),
    _S.RESUMING: Does(Gate.LEAVING, work=Work.TAKE_BACK),
    _S.ISOLATING: Does(Gate.LEAVING, work=Work.ISOLATE),
    _S.EVICTING: Does(Gate.LEAVING, work=Work.EVICT),
    _S.INQUIRING: Does(Gate.LEAVING, message=_M.CLOSE),
    _S.STAYED: Does(Gate.RUNNING),
}

DESTINATION_DOES: Mapping[DestinationState, Does] = {
    _D.REGISTERING: Does(Gate.INCOMING, work=Work.REGISTER),
    _D.PREPARED: Does(Gate.INCOMING),
    _D.FAILED: Does(Gate.INCOMING),
    _D.PREEMPTING: Does(Gate.INCOMING, work=Work.PREEMPT),
    _D.COMMITTED: Does(Gate.RUNNING),
    _D.CLOSING: Does(Gate.INCOMING, work=Work.PROBE),
    _D.CLOSED: Does(Gate.INCOMING),
    _D.RETURNING: Does(Gate.INCOMING, work=Work.RETURN),
    _D.RETURNED: Does(Gate.INCOMING),
    _D.VERIFYING: Does(Gate.RUNNING, work=Work.VERIFY),
    _D.HERE: Does(Gate.RUNNING),
    _D.CLAIMING: Does(Gate.INCOMING, work=Work.CLAIM),
    _D.ASSURING: Does(Gate.RUNNING, work=Work.ASSURE),
    _D.TAKING: Does(Gate.INCOMING, work=Work.TAKE),
    _D.TAKEN: Does(Gate.RUNNING),
    _D.WITHDRAWING: Does(Gate.INCOMING, work=Work.WITHDRAW),
}

SOURCE: Mapping[SourceState, Mapping[Event, SourceState | Choice]] = {
    _S.CHECKING: {
        _E.DONE: _S.PREPARING,
        _E.FAILED: _S.STAYED,
        _E.CHANGED: _S.CHECKING,
        _E.RESTARTED: _S.STAYED,
    },
    _S.PREPARING: {
        _E.TOLD: Choice("changed", _S.PREPARING, _S.CONFIRMING),
        _E.REFUSED: _S.UNDOING,
        _E.TAKEN: _S.CONCEDING,
        _E.UNREACHED: _S.UNDOING,
        _E.GIVEN_UP: _S.UNDOING,
        _E.CHANGED: _S.PREPARING,
        _E.RESTARTED: _S.UNDOING,
    },
    _S.CONFIRMING: {
        _E.DONE: Choice("changed", _S.PREPARING, _S.PREPARED),
        _E.FAILED: _S.UNDOING,
        _E.CHANGED: _S.CONFIRMING,
        _E.RESTARTED: _S.UNDOING,
    },
    _S.PREPARED: {
        _E.ASKED_COMMIT: _S.LEAVING,
        _E.ASKED_ROLL_BACK: _S.UNDOING,
        _E.ASKED_CHECK: _S.CONFIRMING,
        _E.CHANGED: _S.PREPARING,
        _E.RESTARTED: Choice("changed", _S.PREPARING, _S.PREPARED),
    },
    _S.UNDOING: {
        _E.TOLD: _S.STAYED,
        _E.REFUSED: _S.REVIEWING,
        _E.TAKEN: _S.CONCEDING,
        _E.UNREACHED: _S.UNDOING,
        _E.GIVEN_UP: _S.UNDOING,
        _E.ASKED_ROLL_BACK: _S.UNDOING,
        _E.ASKED_ALONE: _S.ISOLATING,
        _E.CHANGED: _S.UNDOING,
        _E.RESTARTED: _S.UNDOING,
    },
    _S.REVIEWING: {
        _E.DONE: _S.UNDOING,
        _E.FAILED: _S.UNDOING,
        _E.CHANGED: _S.REVIEWING,
        _E.ASKED_ROLL_BACK: _S.REVIEWING,
        _E.ASKED_ALONE: _S.ISOLATING,
        _E.RESTARTED: _S.UNDOING,
    },
    _S.LEAVING: {
        _E.DONE: Choice("changed", _S.RECHECKING, _S.GIVING),
        _E.FAILED: _S.PREPARED,
        _E.CHANGED: _S.LEAVING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.RECHECKING: {
        _E.DONE: Choice("changed", _S.CATCHING_UP, _S.GIVING),
        _E.FAILED: _S.CLOSING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.CATCHING_UP: {
        _E.TOLD: _S.RECHECKING,
        _E.REFUSED: _S.CLOSING,
        _E.TAKEN: _S.CONCEDING,
        _E.UNREACHED: _S.CLOSING,
        _E.GIVEN_UP: _S.CLOSING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.GIVING: {
        _E.DONE: _S.COMMITTING,
        _E.FAILED: _S.CLOSING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.COMMITTING: {
        _E.TOLD: _S.COMMITTED,
        _E.REFUSED: _S.CLOSING,
        _E.TAKEN: _S.CONCEDING,
        _E.UNREACHED: _S.COMMITTING,
        _E.GIVEN_UP: _S.CLOSING,
        _E.ASKED_ROLL_BACK: _S.CLOSING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.COMMITTED: {
        _E.ASKED_COMMIT: _S.COMMITTED,
        _E.ASKED_FINISH: _S.SETTLING,
        _E.ASKED_ROLL_BACK: _S.CLOSING,
        _E.RESTARTED: _S.COMMITTED,
    },
    _S.SETTLING: {
        _E.DONE: _S.TELLING,
        _E.FAILED: _S.TELLING,
        _E.RESTARTED: _S.SETTLING,
    },
    _S.TELLING: {
        _E.TOLD: _S.GONE,
        _E.REFUSED: _S.TELLING,
        _E.UNREACHED: _S.TELLING,
        _E.GIVEN_UP: _S.TELLING,
        _E.ASKED_FINISH: _S.TELLING,
        _E.RESTARTED: _S.TELLING,
    },
    # what is left here may hold the reservation until the destination has moved it
    _S.CONCEDING: {
        _E.TOLD: _S.YIELDING,
        _E.REFUSED: _S.CONCEDING,
        _E.UNREACHED: _S.CONCEDING,
        _E.GIVEN_UP: _S.CONCEDING,
        _E.ASKED_FINISH: _S.CONCEDING,
        _E.RESTARTED: _S.CONCEDING,
    },
    _S.YIELDING: {
        _E.DONE: _S.GONE,
        _E.FAILED: _S.YIELDING,
        _E.ASKED_FINISH: _S.YIELDING,
        _E.RESTARTED: _S.YIELDING,
    },
    _S.GONE: {_E.ASKED_FINISH: _S.GONE, _E.RESTARTED: _S.GONE},
    _S.CLOSING: {
        _E.TOLD: _S.ASKING,
        _E.REFUSED: _S.CLOSING,
        _E.TAKEN: _S.CONCEDING,
        _E.UNREACHED: _S.CLOSING,
        _E.GIVEN_UP: Choice("alone", _S.ISOLATING, _S.CLOSING),
        _E.ASKED_ROLL_BACK: _S.CLOSING,
        _E.ASKED_ALONE: _S.ISOLATING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.ASKING: {
        _E.DONE: _S.RECLAIMING,
        _E.FAILED: _S.ASKING,
        _E.ASKED_ROLL_BACK: _S.ASKING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.RECLAIMING: {
        _E.DONE: _S.RETURNING,
        _E.FAILED: _S.RECLAIMING,
        _E.ASKED_ROLL_BACK: _S.RECLAIMING,
        _E.RESTARTED: _S.CLOSING,
    },
    _S.RETURNING: {
        _E.TOLD: _S.RESUMING,
        _E.REFUSED: _S.RETURNING,
        _E.TAKEN: _S.CONCEDING,
        _E.UNREACHED: _S.RETURNING,
        _E.GIVEN_UP: Choice("alone", _S.ISOLATING, _S.RETURNING),
        _E.ASKED_ROLL_BACK: _S.RETURNING,
        _E.ASKED_ALONE: _S.ISOLATING,
        _E.RESTARTED: _S.RETURNING,
    },
    _S.RESUMING: {
        _E.DONE: _S.STAYED,
        _E.FAILED: _S.RESUMING,
        _E.ASKED_ROLL_BACK: _S.RESUMING,
        _E.RESTARTED: _S.RESUMING,
    },
    # neither goes back to closing: half done, it looks as if nothing had been lost
    _S.ISOLATING: {
        _E.DONE: _S.EVICTING,
        _E.FAILED: _S.ISOLATING,
        _E.CHANGED: _S.ISOLATING,
        _E.ASKED_ROLL_BACK: _S.ISOLATING,
        _E.ASKED_ALONE: _S.ISOLATING,
        _E.RESTARTED: _S.INQUIRING,
    },
    _S.EVICTING: {
        _E.DONE: _S.STAYED,
        _E.FAILED: _S.EVICTING,
        _E.ASKED_ROLL_BACK: _S.EVICTING,
        _E.ASKED_ALONE: _S.EVICTING,
        _E.RESTARTED: _S.INQUIRING,
    },
    _S.INQUIRING: {
        _E.TOLD: Choice("isolated", _S.EVICTING, _S.ISOLATING),
        _E.REFUSED: _S.INQUIRING,
        _E.TAKEN: _S.CONCEDING,
        _E.UNREACHED: _S.INQUIRING,
        _E.GIVEN_UP: _S.INQUIRING,
        _E.ASKED_ROLL_BACK: _S.INQUIRING,
        _E.ASKED_ALONE: Choice("isolated", _S.EVICTING, _S.ISOLATING),
        _E.RESTARTED: _S.INQUIRING,
    },
    _S.STAYED: {_E.ASKED_ROLL_BACK: _S.STAYED, _E.CHANGED: _S.STAYED, _E.RESTARTED: _S.STAYED},
}

DESTINATION: Mapping[DestinationState, Mapping[Event, DestinationState]] = {
    _D.REGISTERING: {_E.DONE: _D.PREPARED, _E.FAILED: _D.FAILED, _E.RESTARTED: _D.FAILED},
    _D.PREPARED: {
        _E.PREPARE: _D.REGISTERING,
        _E.COMMIT: _D.PREEMPTING,
        _E.CLOSE: _D.CLOSING,
        _E.RETURN: _D.RETURNING,
        _E.ASKED_TAKE: _D.CLAIMING,
        _E.OVER: _D.WITHDRAWING,
        _E.RESTARTED: _D.PREPARED,
    },
    _D.FAILED: {
        _E.PREPARE: _D.REGISTERING,
        _E.CLOSE: _D.CLOSING,
        _E.RETURN: _D.RETURNING,
        _E.ASKED_TAKE: _D.CLAIMING,
        _E.OVER: _D.WITHDRAWING,
        _E.RESTARTED: _D.FAILED,
    },
    _D.PREEMPTING: {_E.DONE: _D.COMMITTED, _E.FAILED: _D.FAILED, _E.RESTARTED: _D.FAILED},
    _D.COMMITTED: {
        _E.COMMIT: _D.COMMITTED,
        _E.CLOSE: _D.CLOSING,
        _E.FINISH: _D.VERIFYING,
        _E.ASKED_TAKE: _D.ASSURING,
        _E.OVER: _D.WITHDRAWING,
        _E.RESTARTED: _D.COMMITTED,
    },
    _D.CLOSING: {_E.DONE: _D.CLOSED, _E.FAILED: _D.FAILED, _E.RESTARTED: _D.FAILED},
    _D.CLOSED: {
        _E.CLOSE: _D.CLOSING,
        _E.RETURN: _D.RETURNING,
        _E.ASKED_TAKE: _D.CLAIMING,
        _E.OVER: _D.WITHDRAWING,
        _E.RESTARTED: _D.CLOSED,
    },
    _D.RETURNING: {_E.DONE: _D.RETURNED, _E.FAILED: _D.CLOSED, _E.RESTARTED: _D.CLOSED},
    _D.RETURNED: {
        _E.CLOSE: _D.CLOSING,
        _E.RETURN: _D.RETURNING,
        _E.OVER: _D.RETURNED,
        _E.RESTARTED: _D.RETURNED,
    },
    _D.VERIFYING: {_E.DONE: _D.HERE, _E.FAILED: _D.HERE, _E.RESTARTED: _D.COMMITTED},
    _D.HERE: {_E.FINISH: _D.HERE, _E.RESTARTED: _D.HERE},
    _D.CLAIMING: {_E.DONE: _D.TAKING, _E.FAILED: _D.FAILED, _E.RESTARTED: _D.FAILED},
    # the source may have been rolling back when it died
    _D.ASSURING: {_E.DONE: _D.TAKEN, _E.FAILED: _D.COMMITTED, _E.RESTARTED: _D.COMMITTED},
    _D.TAKING: {
        _E.DONE: _D.TAKEN,
        _E.FAILED: _D.TAKING,
        _E.ASKED_TAKE: _D.TAKING,
        _E.RESTARTED: _D.TAKING,
    },
    _D.TAKEN: {
        _E.FINISH: _D.VERIFYING,
        _E.ASKED_TAKE: _D.TAKEN,
        _E.ASKED_FINISH: _D.HERE,
        _E.RESTARTED: _D.TAKEN,
    },
    _D.WITHDRAWING: {
        _E.DONE: _D.RETURNED,
        _E.FAILED: _D.WITHDRAWING,
        _E.OVER: _D.WITHDRAWING,
        _E.RESTARTED: _D.WITHDRAWING,
    },
}

EVENT_OF: Mapping[MessageKind, Event] = {
    _M.PREPARE: _E.PREPARE,
    _M.COMMIT: _E.COMMIT,
    _M.CLOSE: _E.CLOSE,
    _M.RETURN: _E.RETURN,
    _M.FINISH: _E.FINISH,
}

ROLLS_BACK = frozenset({_S.UNDOING, _S.CLOSING, _S.STAYED, _S.ISOLATING, _S.REVIEWING})
HINDERS = frozenset({_E.FAILED, _E.REFUSED, _E.UNREACHED, _E.GIVEN_UP})


def table_of(role: type[SourceState] | type[DestinationState]) -> Iterable[tuple[str, str, str]]:
    """The transitions of one machine as (state, event with its condition, next state), for diagrams."""
    table: Iterable[tuple[Enum, Mapping[Event, SourceState | Choice] | Mapping[Event, DestinationState]]]
    table = SOURCE.items() if role is SourceState else DESTINATION.items()
    for state, events in table:
        for event, after in events.items():
            if isinstance(after, Choice):
                yield state.value, f"{event.value} [{after.when}]", after.yes.value
                yield state.value, f"{event.value} [not {after.when}]", after.no.value
            else:
                yield state.value, event.value, after.value
