"""The handover as two state machines, one on each host, in tables.

Theory of operation. The *source* is the host that the guest leaves, the *destination* the one that it goes
to. The driver of the migration asks the source for three steps, in this order: prepare (the guest runs),
commit (the guest has stopped), finish (the guest runs on the destination). If the guest stays, the driver
asks for a roll back instead. The source sends messages to the destination. The destination asks the source
only whether a handover is over. So one place decides about a handover: the state of `Source`.

A state may have one activity, which begins when the handover enters the state: work on all LUNs of the guest
at once (`holdover.handover.lun_work.work`), or a message to the destination. The end of the activity is an
event, and the tables below say which state follows.

Rules for whoever edits this file:

- Entering a state twice must be harmless: so a host continues after a crash, and so it tries again.
- A message that is lost, late or sent twice must be harmless. The messages of a handover have numbers. The
  destination refuses a message that is older than the last one, and answers the last one again.
- An operator may have declared a source dead that is restarted later. So a restarted source asks the
  destination before it changes anything on a LUN.
- If the source crashes before it has answered "committed", the handover is rolled back, or prepared again,
  because nobody was told that the guest may run elsewhere. A later crash changes nothing.
- Both hosts may be *armed*: it is on record that from now on the commit may be done before it is on record.
  Then a restarted host assumes nothing. The source asks its LUNs and the destination, and the destination
  asks its LUNs before it answers. The destination's gate opens only when the commit is on record.
- What is not known is asked of the LUN. If the LUN cannot be asked, the handover stays in its state and
  reports that.
- The diagrams in the documentation come from these tables, and the exploration in the tests runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from holdover.guest.gate import Gate
from holdover.handover.lun_work.work import Work
from holdover.handover.states import DestinationState, Event, MessageKind, SourceState


class Place(Enum):
    """Where a guest's reservations are while its handover is in a certain state."""

    SOURCE = "on the source"
    DESTINATION = "on the destination"
    UNKNOWN = "in doubt"


S = TypeVar("S", SourceState, DestinationState)


@dataclass(frozen=True, slots=True)
class Choice(Generic[S]):
    """Two states that may follow: ``yes`` if the condition ``when`` is true, else ``no``. If ``no`` is None,
    the event is not allowed while the condition is false. ``no`` may be another choice.
    """

    when: str
    yes: S
    no: S | Choice[S] | None


F = TypeVar("F")
"""What follows an event: a state, or a choice between two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpec(Generic[F]):
    """Everything about one state.

    Attributes:
        gate: The gate of the guest's devices on this host.
        work: The work on all LUNs that begins when the handover enters the state.
        message: The message that the source sends then, in place of work.
        follows: The next state, by event. All other events are not allowed.
        place: Where the guest's reservations are.
        now: What is true now, as text for people.
        advice: What comes next, as text for people; empty if nothing is left to do.
        instead: The end of the sentence that refuses a request in this state, for people: what is true, or
            what to ask for instead (`what_instead`).
        rolls_back: For the source: whether the handover is being rolled back. The first such state records
            the reason.
        is_asked: For the destination: whether a message has led to this state, so that the source waits for
            an answer.
        guest_ran: For the destination: whether the guest may have run here since the commit and nothing has
            been read about that yet. Then its device knows best what it has.
        is_taken: For the destination: whether the guest is gone from the source for good. A source that still
            sends messages does not know this yet.
    """

    gate: Gate
    follows: Mapping[Event, F]
    place: Place
    now: str
    advice: str = ""
    instead: str = ""
    work: Work | None = None
    message: MessageKind | None = None
    rolls_back: bool = False
    is_asked: bool = True
    guest_ran: bool = False
    is_taken: bool = False


_S, _D, _E, _M = SourceState, DestinationState, Event, MessageKind

_WAIT = "it continues by itself"
_PREPARES = _WAIT + " until it is prepared; to end it: {do} rollback {guest} --at {api}"
_STAYS = "guest {guest} runs on {host} with its reservations"
_ROLL_BACK_OR_WAIT = "; roll back, or wait"
_RETURNS = "guest {guest}'s commands wait on {host} until its reservations are back there; nothing is lost"
_UNSURE = (
    "the agent of {host} was restarted, and it is being found out whether guest {guest}'s reservations are "
    "on {peer}; on {host} its commands wait"
)
_TAKEN_OR_NOT = (
    "the agent of {host} was restarted, and guest {guest} may have been taken by {peer} meanwhile; on {host} "
    "its commands wait"
)
_SEE_TO = (
    "the agent keeps trying; remove the cause shown above, or, if {peer} is dead: "
    "{do} rollback {guest} --at {api} --alone"
)


SOURCE: Mapping[SourceState, StateSpec[SourceState | Choice[SourceState]]] = {
    _S.CHECKING: StateSpec(
        gate=Gate.RUNNING,
        work=Work.CHECK,
        place=Place.SOURCE,
        now=_STAYS,
        advice=_PREPARES,
        follows={
            _E.DONE: _S.PREPARING,
            _E.FAILED: _S.STAYED,
            _E.CHANGED: _S.CHECKING,
            _E.RESTARTED: _S.STAYED,
        },
    ),
    _S.PREPARING: StateSpec(
        gate=Gate.RUNNING,
        message=_M.PREPARE,
        place=Place.SOURCE,
        now=_STAYS,
        advice=_PREPARES,
        follows={
            _E.TOLD: Choice("changed", _S.PREPARING, _S.CONFIRMING),
            _E.REFUSED: _S.UNDOING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.UNDOING,
            _E.GIVEN_UP: _S.UNDOING,
            _E.CHANGED: _S.PREPARING,
            _E.RESTARTED: _S.PROBING,
        },
    ),
    _S.CONFIRMING: StateSpec(
        gate=Gate.RUNNING,
        work=Work.CONFIRM,
        place=Place.SOURCE,
        now=_STAYS,
        advice=_PREPARES,
        follows={
            _E.DONE: Choice("changed", _S.PREPARING, _S.PREPARED),
            # A change by the guest may be the cause: it was fenced, and has registered again on this host
            # only.
            _E.FAILED: Choice("news", _S.PREPARING, _S.UNDOING),
            # The commit checks again, while the guest stands still.
            _E.ASKED_COMMIT: Choice("only rechecked", _S.LEAVING, None),
            _E.CHANGED: _S.CONFIRMING,
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.PROBING),
        },
    ),
    _S.PREPARED: StateSpec(
        gate=Gate.RUNNING,
        place=Place.SOURCE,
        now=_STAYS + "; its keys are registered on {peer} too",
        advice="when it has stopped, {do} commit {guest} --at {api}; or {do} rollback {guest} --at {api}",
        instead="; commit or roll back",
        follows={
            _E.ASKED_COMMIT: _S.LEAVING,
            _E.ASKED_ROLL_BACK: _S.UNDOING,
            _E.ASKED_CHECK: _S.CONFIRMING,
            _E.CHANGED: _S.PREPARING,
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.PROBING),
        },
    ),
    _S.DISCARDING: StateSpec(
        gate=Gate.RUNNING,
        work=Work.DISCARD,
        place=Place.SOURCE,
        now=_STAYS + "; a spare key of {peer} is being removed from a path that is away",
        advice="the agent keeps trying; remove the cause shown above",
        rolls_back=True,
        follows={
            _E.DONE: _S.STAYED,
            _E.FAILED: _S.DISCARDING,
            _E.CHANGED: _S.DISCARDING,
            _E.ASKED_ROLL_BACK: _S.DISCARDING,
            _E.RESTARTED: _S.DISCARDING,
        },
    ),
    # The agent was restarted, and nothing was committed. The operator may have declared this host dead, so
    # that the destination has taken the guest: then a registration is missing here. The guest's commands wait
    # until that is known.
    _S.PROBING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.RECOUNT,
        place=Place.UNKNOWN,
        now=_TAKEN_OR_NOT,
        advice=_SEE_TO,
        follows={
            # The check finds what the guest did without a record, such as a new registration after a fence.
            _E.DONE: Choice(
                "lost",
                _S.RETRACTING,
                Choice("rolls back", _S.UNDOING, Choice("changed", _S.PREPARING, _S.CONFIRMING)),
            ),
            _E.FAILED: _S.PROBING,
            _E.ASKED_ROLL_BACK: _S.PROBING,
            _E.ASKED_ALONE: _S.ASSESSING,
            _E.RESTARTED: _S.PROBING,
        },
    ),
    # A destination that refuses has taken nothing.
    _S.RETRACTING: StateSpec(
        gate=Gate.LEAVING,
        message=_M.RETURN,
        place=Place.UNKNOWN,
        now=_TAKEN_OR_NOT,
        advice=_SEE_TO,
        rolls_back=True,
        follows={
            _E.TOLD: Choice("strays", _S.DISCARDING, _S.STAYED),
            _E.REFUSED: _S.REVIEWING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.RETRACTING,
            _E.GIVEN_UP: _S.RETRACTING,
            _E.ASKED_ROLL_BACK: _S.RETRACTING,
            _E.ASKED_ALONE: _S.ASSESSING,
            _E.RESTARTED: _S.RETRACTING,
        },
    ),
    _S.UNDOING: StateSpec(
        gate=Gate.RUNNING,
        message=_M.RETURN,
        place=Place.SOURCE,
        now=_STAYS + "; its keys may still be registered on {peer}",
        advice=(
            "they are removed as soon as {peer} answers; or, if it is dead: "
            "{do} rollback {guest} --at {api} --alone"
        ),
        rolls_back=True,
        follows={
            _E.TOLD: Choice("strays", _S.DISCARDING, _S.STAYED),
            _E.REFUSED: _S.REVIEWING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.UNDOING,
            _E.GIVEN_UP: _S.UNDOING,
            _E.ASKED_ROLL_BACK: _S.UNDOING,
            _E.ASKED_ALONE: _S.ASSESSING,
            _E.CHANGED: _S.UNDOING,
            _E.RESTARTED: _S.PROBING,
        },
    ),
    _S.REVIEWING: StateSpec(
        gate=Gate.RUNNING,
        work=Work.CHECK,
        place=Place.SOURCE,
        now=_STAYS + "; its keys may be registered on {peer} too",
        advice=_WAIT,
        rolls_back=True,
        follows={
            _E.DONE: _S.UNDOING,
            _E.FAILED: _S.UNDOING,
            _E.CHANGED: _S.REVIEWING,
            _E.ASKED_ROLL_BACK: _S.REVIEWING,
            _E.ASKED_ALONE: _S.ASSESSING,
            _E.RESTARTED: _S.PROBING,
        },
    ),
    _S.LEAVING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.DRAIN,
        place=Place.SOURCE,
        now="guest {guest}'s commands wait on {host}, and its reservations are there",
        advice=_WAIT,
        follows={
            _E.DONE: Choice("changed", _S.RECHECKING, _S.GIVING),
            _E.FAILED: _S.PREPARED,
            _E.CHANGED: _S.LEAVING,
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.CLOSING),
        },
    ),
    _S.RECHECKING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.CONFIRM,
        place=Place.SOURCE,
        now="guest {guest}'s commands wait on {host}, and its reservations are there",
        advice=_WAIT,
        follows={
            _E.DONE: Choice("changed", _S.CATCHING_UP, _S.GIVING),
            _E.FAILED: Choice("news", _S.CATCHING_UP, _S.CLOSING),
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.CLOSING),
        },
    ),
    _S.CATCHING_UP: StateSpec(
        gate=Gate.LEAVING,
        message=_M.PREPARE,
        place=Place.SOURCE,
        now="guest {guest}'s commands wait on {host}, and its reservations are there",
        advice=_WAIT,
        follows={
            _E.TOLD: _S.RECHECKING,
            _E.REFUSED: _S.CLOSING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.CLOSING,
            _E.GIVEN_UP: _S.CLOSING,
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.CLOSING),
        },
    ),
    _S.GIVING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.GIVE,
        place=Place.UNKNOWN,
        now="guest {guest}'s reservations are on their way from {host} to {peer}",
        advice=_WAIT,
        follows={
            _E.DONE: _S.COMMITTING,
            _E.FAILED: _S.CLOSING,
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.CLOSING),
        },
    ),
    _S.COMMITTING: StateSpec(
        gate=Gate.LEAVING,
        message=_M.COMMIT,
        place=Place.UNKNOWN,
        now="guest {guest}'s reservations are on their way from {host} to {peer}",
        advice="the agent keeps trying; or {do} rollback {guest} --at {api}",
        follows={
            _E.TOLD: Choice("changed", _S.HEARING, _S.COMMITTED),
            _E.REFUSED: _S.CLOSING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.COMMITTING,
            _E.GIVEN_UP: _S.CLOSING,
            _E.ASKED_ROLL_BACK: _S.CLOSING,
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.CLOSING),
        },
    ),
    _S.HEARING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.COLLECT,
        place=Place.DESTINATION,
        now="guest {guest} was fenced by another node; it goes to {peer}, and its commands wait on {host}",
        advice=_WAIT,
        follows={
            _E.DONE: _S.COMMITTING,
            _E.FAILED: _S.COMMITTING,  # the guest's own commands will show it
            _E.RESTARTED: Choice("armed", _S.WONDERING, _S.CLOSING),
        },
    ),
    _S.COMMITTED: StateSpec(
        gate=Gate.LEAVING,
        place=Place.DESTINATION,
        now="guest {guest}'s reservations are on {peer}, where it may run; on {host} its commands wait",
        advice=(
            "when it runs on {peer}, {do} finish {guest} --at {api}; "
            "if it does not, {do} rollback {guest} --at {api}"
        ),
        instead="; finish or roll back",
        follows={
            _E.ASKED_COMMIT: _S.COMMITTED,
            _E.ASKED_FINISH: _S.SETTLING,
            _E.ASKED_ROLL_BACK: _S.CLOSING,
            _E.RESTARTED: _S.COMMITTED,
        },
    ),
    _S.SETTLING: StateSpec(
        gate=Gate.DEPARTED,
        work=Work.SETTLE,
        place=Place.DESTINATION,
        now="guest {guest} is on {peer} with its reservations",
        advice=_WAIT,
        follows={
            _E.DONE: _S.TELLING,
            _E.FAILED: _S.TELLING,
            _E.RESTARTED: _S.SETTLING,
        },
    ),
    _S.TELLING: StateSpec(
        gate=Gate.DEPARTED,
        message=_M.FINISH,
        place=Place.DESTINATION,
        now="guest {guest} is on {peer} with its reservations",
        advice=_WAIT,
        follows={
            _E.TOLD: _S.GONE,
            _E.REFUSED: _S.TELLING,
            _E.UNREACHED: _S.TELLING,
            _E.GIVEN_UP: _S.TELLING,
            _E.ASKED_FINISH: _S.TELLING,
            _E.RESTARTED: _S.TELLING,
        },
    ),
    # A registration that is left here may hold the reservation until the destination has moved it.
    _S.CONCEDING: StateSpec(
        gate=Gate.DEPARTED,
        message=_M.FINISH,
        place=Place.UNKNOWN,
        now="guest {guest}'s reservations were taken by {peer}",
        advice=_WAIT,
        follows={
            _E.TOLD: _S.YIELDING,
            _E.REFUSED: _S.CONCEDING,
            _E.UNREACHED: _S.CONCEDING,
            _E.GIVEN_UP: _S.CONCEDING,
            _E.ASKED_FINISH: _S.CONCEDING,
            _E.RESTARTED: _S.CONCEDING,
        },
    ),
    _S.YIELDING: StateSpec(
        gate=Gate.DEPARTED,
        work=Work.YIELD,
        place=Place.DESTINATION,
        now="guest {guest}'s reservations were taken by {peer}; what is left on {host} is being removed",
        advice="the agent keeps trying; remove the cause shown above",
        follows={
            _E.DONE: _S.GONE,
            _E.FAILED: _S.YIELDING,
            _E.ASKED_FINISH: _S.YIELDING,
            _E.RESTARTED: _S.YIELDING,
        },
    ),
    _S.GONE: StateSpec(
        gate=Gate.DEPARTED,
        place=Place.DESTINATION,
        now="guest {guest} is on {peer} with its reservations",
        instead="; the guest has gone",
        follows={
            _E.ASKED_FINISH: _S.GONE,
            _E.RESTARTED: _S.GONE,
        },
    ),
    # The agent was restarted, and a commit that is not on record may have been done. The guest's commands
    # wait until it is known. "Committed" changes nothing here: only the driver of the migration knows whether
    # the guest was let go on.
    _S.WONDERING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.WONDER,
        place=Place.UNKNOWN,
        now=_UNSURE,
        advice=_WAIT,
        follows={
            _E.DONE: _S.RECALLING,
            _E.FAILED: _S.WONDERING,
            _E.ASKED_ROLL_BACK: _S.CLOSING,
            _E.RESTARTED: _S.WONDERING,
        },
    ),
    _S.RECALLING: StateSpec(
        gate=Gate.LEAVING,
        message=_M.RECALL,
        place=Place.UNKNOWN,
        now=_UNSURE,
        advice=_SEE_TO,
        follows={
            _E.TOLD: _S.COMMITTED,
            _E.KEPT: Choice("lost", _S.CLOSING, _S.REGAINING),
            _E.REFUSED: _S.CLOSING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.RECALLING,
            _E.GIVEN_UP: _S.RECALLING,
            _E.ASKED_ROLL_BACK: _S.CLOSING,
            _E.ASKED_ALONE: _S.WEIGHING,
            _E.RESTARTED: _S.WONDERING,
        },
    ),
    # Nothing was moved. The source may have changed its own key for the commit.
    _S.REGAINING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.RECLAIM,
        place=Place.SOURCE,
        now="guest {guest}'s commands wait on {host}, and its reservations are there",
        advice=_WAIT,
        follows={
            _E.DONE: _S.PREPARING,
            _E.FAILED: _S.REGAINING,
            _E.ASKED_ROLL_BACK: _S.CLOSING,
            _E.RESTARTED: _S.WONDERING,
        },
    ),
    _S.CLOSING: StateSpec(
        gate=Gate.LEAVING,
        message=_M.CLOSE,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice=_SEE_TO,
        rolls_back=True,
        follows={
            _E.TOLD: _S.ASKING,
            _E.REFUSED: _S.CLOSING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.CLOSING,
            _E.GIVEN_UP: Choice("alone", _S.WEIGHING, _S.CLOSING),
            _E.ASKED_ROLL_BACK: _S.CLOSING,
            _E.ASKED_ALONE: _S.WEIGHING,
            _E.RESTARTED: _S.CLOSING,
        },
    ),
    _S.ASKING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.ASK,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice="the agent keeps trying; remove the cause shown above",
        follows={
            _E.DONE: _S.RECLAIMING,
            _E.FAILED: _S.ASKING,
            _E.ASKED_ROLL_BACK: _S.ASKING,
            _E.RESTARTED: _S.CLOSING,
        },
    ),
    _S.RECLAIMING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.RECLAIM,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice="the agent keeps trying; remove the cause shown above",
        follows={
            _E.DONE: _S.RETURNING,
            _E.FAILED: _S.RECLAIMING,
            _E.ASKED_ROLL_BACK: _S.RECLAIMING,
            _E.RESTARTED: _S.CLOSING,
        },
    ),
    _S.RETURNING: StateSpec(
        gate=Gate.LEAVING,
        message=_M.RETURN,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice=_SEE_TO,
        follows={
            _E.TOLD: _S.RESUMING,
            _E.REFUSED: _S.RETURNING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.RETURNING,
            _E.GIVEN_UP: Choice("alone", _S.WEIGHING, _S.RETURNING),
            _E.ASKED_ROLL_BACK: _S.RETURNING,
            _E.ASKED_ALONE: _S.WEIGHING,
            _E.RESTARTED: _S.RETURNING,
        },
    ),
    _S.RESUMING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.TAKE_BACK,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice="the agent keeps trying; remove the cause shown above",
        follows={
            _E.DONE: _S.STAYED,
            _E.FAILED: _S.RESUMING,
            _E.ASKED_ROLL_BACK: _S.RESUMING,
            _E.RESTARTED: _S.RESUMING,
        },
    ),
    # The destination knows what the guest did there. Without the destination, the LUN must show that the
    # guest did nothing. If the source cannot act alone, it asks the destination again, which may answer by
    # now. If the destination may have given back its registration already, the source does not send CLOSE
    # again: the missing registration would look as if another node had removed it.
    _S.WEIGHING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.WEIGH,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice=_WAIT,
        rolls_back=True,
        follows={
            _E.DONE: _S.ISOLATING,
            _E.FAILED: Choice("reclaimed", _S.RETURNING, _S.CLOSING),
            _E.CHANGED: _S.WEIGHING,
            _E.RESTARTED: Choice("reclaimed", _S.RETURNING, _S.CLOSING),
        },
    ),
    # The guest's registration was not moved by a commit. If it is missing here, the destination has taken it,
    # or another node has fenced the guest.
    _S.ASSESSING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.ASSESS,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice=_WAIT,
        rolls_back=True,
        follows={
            _E.DONE: _S.ISOLATING,
            _E.FAILED: _S.PROBING,
            _E.CHANGED: _S.ASSESSING,
            _E.RESTARTED: _S.PROBING,
        },
    ),
    # ISOLATING and EVICTING never lead back to CLOSING. When they are half done, it looks as if nothing had
    # been lost, and the destination would take the source's own changes for changes of another node.
    _S.ISOLATING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.ISOLATE,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice="the agent keeps trying; remove the cause shown above",
        rolls_back=True,
        follows={
            _E.DONE: _S.EVICTING,
            _E.FAILED: _S.ISOLATING,
            _E.CHANGED: _S.ISOLATING,
            _E.ASKED_ROLL_BACK: _S.ISOLATING,
            _E.ASKED_ALONE: _S.ISOLATING,
            _E.RESTARTED: _S.INQUIRING,
        },
    ),
    _S.EVICTING: StateSpec(
        gate=Gate.LEAVING,
        work=Work.EVICT,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice="the agent keeps trying; remove the cause shown above",
        follows={
            _E.DONE: _S.STAYED,
            _E.FAILED: _S.EVICTING,
            _E.ASKED_ROLL_BACK: _S.EVICTING,
            _E.ASKED_ALONE: _S.EVICTING,
            _E.RESTARTED: _S.INQUIRING,
        },
    ),
    _S.INQUIRING: StateSpec(
        gate=Gate.LEAVING,
        message=_M.CLOSE,
        place=Place.UNKNOWN,
        now=_RETURNS,
        advice=_SEE_TO,
        follows={
            _E.TOLD: Choice("isolated", _S.EVICTING, _S.ISOLATING),
            _E.REFUSED: _S.INQUIRING,
            _E.TAKEN: _S.CONCEDING,
            _E.UNREACHED: _S.INQUIRING,
            _E.GIVEN_UP: _S.INQUIRING,
            _E.ASKED_ROLL_BACK: _S.INQUIRING,
            _E.ASKED_ALONE: Choice("isolated", _S.EVICTING, _S.ISOLATING),
            _E.RESTARTED: _S.INQUIRING,
        },
    ),
    _S.STAYED: StateSpec(
        gate=Gate.RUNNING,
        place=Place.SOURCE,
        now="guest {guest} is on {host} with its reservations",
        rolls_back=True,
        instead="; the guest is on the source; prepare again",
        follows={
            _E.ASKED_ROLL_BACK: _S.STAYED,
            _E.CHANGED: _S.STAYED,
            _E.RESTARTED: _S.STAYED,
        },
    ),
}

_ASK_SOURCE = "{peer} says what comes next"
_IF_DEAD = (
    _ASK_SOURCE + "; if it is dead: {do} take {guest} --at {api}, or, to remove what was prepared here: "
    "{do} rollback {guest} --at {api} --alone"
)
_IS_HERE = (
    " on this host: its reservations are here and it may run here; if the source is dead, holdover handover "
    "take, and if it is not, ask the source"
)
_FORGOTTEN = (
    "guest {guest}'s reservations are on {peer} or on {host}, which does not know whether it has taken them; "
    "on {host} its commands wait"
)
_THERE = "guest {guest} is on {peer}, or on its way back there"


DESTINATION: Mapping[DestinationState, StateSpec[DestinationState | Choice[DestinationState]]] = {
    _D.REGISTERING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.REGISTER,
        place=Place.SOURCE,
        now="guest {guest} is on {peer}; its keys are being registered on {host}",
        advice=_WAIT,
        follows={
            _E.DONE: _D.PREPARED,
            _E.FAILED: _D.FAILED,
            _E.RESTARTED: _D.FAILED,
        },
    ),
    _D.PREPARED: StateSpec(
        gate=Gate.INCOMING,
        place=Place.SOURCE,
        now="guest {guest} is on {peer}; its keys are registered on {host} too",
        advice=_IF_DEAD,
        follows={
            _E.PREPARE: _D.REGISTERING,
            _E.COMMIT: _D.PREEMPTING,
            _E.CLOSE: _D.CLOSING,
            _E.RETURN: _D.RETURNING,
            _E.ASKED_TAKE: _D.CLAIMING,
            _E.OVER: _D.WITHDRAWING,
            _E.ASKED_ALONE: _D.WITHDRAWING,
            _E.RESTARTED: Choice("armed", _D.UNSURE, _D.PREPARED),
        },
    ),
    # No command of the guest has passed here: the gate waits for the record of the commit.
    _D.UNSURE: StateSpec(
        gate=Gate.INCOMING,
        place=Place.UNKNOWN,
        now=_FORGOTTEN,
        advice=_ASK_SOURCE + "; if it is dead: {do} take {guest} --at {api}",
        follows={
            _E.PREPARE: _D.REGISTERING,
            _E.COMMIT: _D.PREEMPTING,
            _E.RECALL: _D.RECOLLECTING,
            _E.CLOSE: _D.CLOSING,
            _E.RETURN: _D.RETURNING,
            _E.FINISH: _D.VERIFYING,
            _E.ASKED_TAKE: _D.CLAIMING,
            _E.OVER: _D.WITHDRAWING,
            _E.RESTARTED: _D.UNSURE,
        },
    ),
    _D.RECOLLECTING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.RECOLLECT,
        place=Place.UNKNOWN,
        now=_FORGOTTEN,
        advice=_WAIT,
        follows={
            _E.DONE: _D.COMMITTED,
            _E.FAILED: _D.UNSURE,
            _E.RESTARTED: _D.UNSURE,
        },
    ),
    _D.FAILED: StateSpec(
        gate=Gate.INCOMING,
        place=Place.UNKNOWN,
        now="guest {guest} is on {peer}; the last request to {host} failed",
        advice=_IF_DEAD,
        follows={
            _E.PREPARE: _D.REGISTERING,
            _E.CLOSE: _D.CLOSING,
            _E.RETURN: _D.RETURNING,
            _E.ASKED_TAKE: _D.CLAIMING,
            _E.OVER: _D.WITHDRAWING,
            _E.ASKED_ALONE: _D.WITHDRAWING,
            _E.RESTARTED: _D.FAILED,
        },
    ),
    _D.PREEMPTING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.PREEMPT,
        place=Place.UNKNOWN,
        now="guest {guest}'s reservations are on their way from {peer} to {host}",
        advice=_WAIT,
        # An armed COMMIT may come a second time, late: the first one may have been done without a record.
        follows={
            _E.DONE: _D.COMMITTED,
            _E.FAILED: Choice("armed", _D.UNSURE, _D.FAILED),
            _E.RESTARTED: Choice("armed", _D.UNSURE, _D.FAILED),
        },
    ),
    _D.COMMITTED: StateSpec(
        gate=Gate.RUNNING,
        place=Place.DESTINATION,
        now="guest {guest}'s reservations are on {host}, where it may run",
        advice=_ASK_SOURCE + "; if it is dead: {do} take {guest} --at {api}",
        guest_ran=True,
        instead=_IS_HERE,
        follows={
            _E.COMMIT: _D.COMMITTED,
            _E.RECALL: _D.COMMITTED,
            _E.CLOSE: _D.ASCERTAINING,
            _E.FINISH: _D.VERIFYING,
            _E.ASKED_TAKE: _D.ASSURING,
            _E.OVER: _D.WITHDRAWING,
            _E.RESTARTED: _D.COMMITTED,
        },
    ),
    # A failure leads to HALTED and not to FAILED, because FAILED forgets that the guest may have run here.
    _D.ASCERTAINING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.ASCERTAIN,
        place=Place.UNKNOWN,
        now="guest {guest} is on its way back to {peer}; what it has is being read",
        advice=_WAIT,
        guest_ran=True,
        follows={
            _E.DONE: _D.CLOSED,
            _E.FAILED: _D.HALTED,
            _E.RESTARTED: _D.HALTED,
        },
    ),
    _D.HALTED: StateSpec(
        gate=Gate.INCOMING,
        place=Place.UNKNOWN,
        now=(
            "guest {guest} is on its way back to {peer}, its reservations are on {host}, "
            "and what it has could not be read"
        ),
        advice=(
            "{peer} asks again and again; remove the cause, or, if {peer} is dead: "
            "{do} take {guest} --at {api}"
        ),
        guest_ran=True,
        instead="; it may be registered only on this host; if the source is dead, holdover handover take",
        follows={
            _E.CLOSE: _D.ASCERTAINING,
            _E.ASKED_TAKE: _D.ASSURING,
            _E.OVER: _D.WITHDRAWING,
            _E.RESTARTED: _D.HALTED,
        },
    ),
    _D.CLOSING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.PROBE,
        place=Place.UNKNOWN,
        now=_THERE,
        advice=_WAIT,
        follows={
            _E.DONE: _D.CLOSED,
            _E.FAILED: _D.FAILED,
            _E.RESTARTED: _D.FAILED,
        },
    ),
    _D.CLOSED: StateSpec(
        gate=Gate.INCOMING,
        place=Place.UNKNOWN,
        now=_THERE,
        advice=_IF_DEAD,
        follows={
            _E.CLOSE: _D.CLOSING,
            _E.RETURN: _D.RETURNING,
            _E.ASKED_TAKE: _D.CLAIMING,
            _E.OVER: _D.WITHDRAWING,
            _E.ASKED_ALONE: _D.WITHDRAWING,
            _E.RESTARTED: _D.CLOSED,
        },
    ),
    _D.RETURNING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.RETURN,
        place=Place.UNKNOWN,
        now=_THERE,
        advice=_WAIT,
        follows={
            _E.DONE: _D.RETURNED,
            _E.FAILED: _D.CLOSED,
            _E.RESTARTED: _D.CLOSED,
        },
    ),
    # OVER answers a question to the source. It may come late, when another handover has brought the guest.
    _D.RETURNED: StateSpec(
        gate=Gate.INCOMING,
        place=Place.SOURCE,
        now="guest {guest} is on {peer}",
        follows={
            _E.CLOSE: _D.CLOSING,
            _E.RETURN: _D.RETURNING,
            _E.RESTARTED: _D.RETURNED,
        },
    ),
    _D.VERIFYING: StateSpec(
        gate=Gate.RUNNING,
        work=Work.VERIFY,
        place=Place.DESTINATION,
        now="guest {guest} is on {host} with its reservations",
        advice=_WAIT,
        guest_ran=True,
        instead="; wait",
        follows={
            _E.DONE: _D.HERE,
            _E.FAILED: _D.HERE,
            _E.RESTARTED: _D.COMMITTED,
        },
    ),
    _D.HERE: StateSpec(
        gate=Gate.RUNNING,
        place=Place.DESTINATION,
        now="guest {guest} is on {host} with its reservations",
        guest_ran=True,
        is_taken=True,
        instead="; the guest is here",
        follows={
            _E.FINISH: _D.HERE,
            _E.RESTARTED: _D.HERE,
        },
    ),
    _D.CLAIMING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.CLAIM,
        place=Place.UNKNOWN,
        now="guest {guest}'s reservations are being taken from {peer}, which is dead",
        advice=_WAIT,
        is_asked=False,
        follows={
            _E.DONE: _D.TAKING,
            _E.FAILED: _D.FAILED,
            _E.RESTARTED: _D.FAILED,
        },
    ),
    # The source may have begun to roll back before it died.
    _D.ASSURING: StateSpec(
        gate=Gate.RUNNING,
        work=Work.ASSURE,
        place=Place.UNKNOWN,
        now="guest {guest}'s reservations were committed to {host}, where it may run; {peer} is dead",
        advice=_WAIT,
        is_asked=False,
        guest_ran=True,
        follows={
            _E.DONE: _D.TAKEN,
            _E.FAILED: _D.COMMITTED,
            _E.RESTARTED: _D.COMMITTED,
        },
    ),
    # If this host's registration is gone, either another node has fenced the guest, or the source is back and
    # has rolled back alone. Only the source knows which: OVER and FINISH are its answers.
    _D.TAKING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.TAKE,
        place=Place.UNKNOWN,
        now="guest {guest}'s reservations are being taken from {peer}, which is dead",
        advice="the agent keeps trying; remove the cause shown above",
        is_asked=False,
        is_taken=True,
        follows={
            _E.DONE: _D.TAKEN,
            _E.FAILED: _D.TAKING,
            _E.FINISH: _D.TAKING,
            _E.ASKED_TAKE: _D.TAKING,
            _E.ASKED_FINISH: _D.TAKING,
            _E.OVER: _D.WITHDRAWING,
            _E.RESTARTED: _D.INTERRUPTED,
        },
    ),
    # The source may have been asked to roll back alone while this host was down. Two hosts that act alone at
    # the same time remove each other's registrations.
    _D.INTERRUPTED: StateSpec(
        gate=Gate.INCOMING,
        place=Place.UNKNOWN,
        now="{host} was restarted while it took guest {guest}'s reservations from {peer}",
        advice=_ASK_SOURCE + "; if it is still dead: {do} take {guest} --at {api}",
        is_asked=False,
        is_taken=True,
        follows={
            _E.FINISH: _D.TAKING,
            _E.ASKED_TAKE: _D.TAKING,
            _E.ASKED_FINISH: _D.TAKING,
            _E.OVER: _D.WITHDRAWING,
            _E.RESTARTED: _D.INTERRUPTED,
        },
    ),
    _D.TAKEN: StateSpec(
        gate=Gate.RUNNING,
        place=Place.DESTINATION,
        now="guest {guest}'s reservations were taken from {peer} and are on {host}, where it may run",
        advice="{peer} is told when it comes back; if it never will: {do} finish {guest} --at {api}",
        guest_ran=True,
        is_taken=True,
        instead=" on this host: its reservations are here and it may run here; holdover handover finish",
        follows={
            _E.FINISH: _D.VERIFYING,
            _E.ASKED_TAKE: _D.REASSURING,
            _E.ASKED_FINISH: _D.HERE,
            _E.OVER: _D.WITHDRAWING,
            _E.RESTARTED: _D.REASSURING,
        },
    ),
    # The agent was restarted, or the source is declared dead once more. This host may have been declared dead
    # in between, and the source may have rolled back alone, or may have died while it did.
    _D.REASSURING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.REASSURE,
        place=Place.UNKNOWN,
        now=(
            "{host} had taken guest {guest}'s reservations from {peer}, and finds out whether they are still "
            "there; its commands wait"
        ),
        advice=_ASK_SOURCE + "; if it is still dead: {do} finish {guest} --at {api}",
        is_asked=False,
        guest_ran=True,
        is_taken=True,
        follows={
            _E.DONE: _D.TAKEN,
            _E.FAILED: _D.REASSURING,
            _E.FINISH: _D.TAKING,
            _E.ASKED_TAKE: _D.TAKING,
            _E.ASKED_FINISH: _D.TAKING,
            _E.OVER: _D.WITHDRAWING,
            _E.RESTARTED: _D.REASSURING,
        },
    ),
    _D.WITHDRAWING: StateSpec(
        gate=Gate.INCOMING,
        work=Work.WITHDRAW,
        place=Place.SOURCE,
        now="guest {guest} is on {peer}; what is left on {host} is being removed",
        advice=_WAIT,
        is_asked=False,
        follows={
            _E.DONE: _D.RETURNED,
            _E.FAILED: _D.WITHDRAWING,
            _E.OVER: _D.WITHDRAWING,
            _E.ASKED_ALONE: _D.WITHDRAWING,
            _E.RESTARTED: _D.WITHDRAWING,
        },
    ),
}

SPECS: Mapping[type[Enum], Mapping[Any, StateSpec[Any]]] = {
    SourceState: SOURCE,
    DestinationState: DESTINATION,
}
"""Both tables, by the class of their states."""

EVENT_OF: Mapping[MessageKind, Event] = {
    _M.PREPARE: _E.PREPARE,
    _M.COMMIT: _E.COMMIT,
    _M.RECALL: _E.RECALL,
    _M.CLOSE: _E.CLOSE,
    _M.RETURN: _E.RETURN,
    _M.FINISH: _E.FINISH,
}

HINDERS = frozenset({_E.FAILED, _E.REFUSED, _E.UNREACHED, _E.GIVEN_UP})


def what_instead(state: SourceState | DestinationState) -> str:
    """The end of the sentence that refuses a request in ``state``."""
    if isinstance(state, SourceState):
        return SOURCE[state].instead or _ROLL_BACK_OR_WAIT
    return DESTINATION[state].instead
