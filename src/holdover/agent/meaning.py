"""What the state of a handover means to people: what is true of the guest now, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from holdover.agent.api import HandoverState
from holdover.handover.states import DestinationState, SourceState

__all__ = ["Meaning", "meaning_of"]

_S, _D = SourceState, DestinationState


@dataclass(frozen=True, slots=True)
class Meaning:
    """What is true now, and what comes next; ``next`` is empty when nothing is left to do."""

    now: str
    next: str = ""


_WAIT = "it goes on by itself"
_COMMANDS = "holdover handover"
_STAYS = "guest {guest} runs on {host} with its reservations"
_RETURNS = "guest {guest}'s commands wait on {host} until its reservations are back there; nothing is lost"
_SEE_TO = (
    "it is tried again and again; see to what hinders it, or, if {peer} is dead: "
    "{do} rollback {guest} --at {api} --alone"
)

_SOURCE: Mapping[SourceState, Meaning] = {
    _S.CHECKING: Meaning(_STAYS, _WAIT),
    _S.PREPARING: Meaning(_STAYS, _WAIT),
    _S.CONFIRMING: Meaning(_STAYS, _WAIT),
    _S.PREPARED: Meaning(
        _STAYS + "; its keys are registered on {peer} too",
        "when it has stopped, {do} commit {guest} --at {api}; or {do} rollback {guest} --at {api}",
    ),
    _S.UNDOING: Meaning(
        _STAYS + "; its keys may still be registered on {peer}",
        "they are removed as soon as {peer} answers; or, if it is dead: "
        "{do} rollback {guest} --at {api} --alone",
    ),
    _S.REVIEWING: Meaning(_STAYS + "; its keys may be registered on {peer} too", _WAIT),
    _S.LEAVING: Meaning("guest {guest}'s commands wait on {host}, its reservations are there", _WAIT),
    _S.RECHECKING: Meaning("guest {guest}'s commands wait on {host}, its reservations are there", _WAIT),
    _S.CATCHING_UP: Meaning("guest {guest}'s commands wait on {host}, its reservations are there", _WAIT),
    _S.GIVING: Meaning("guest {guest}'s reservations are on their way from {host} to {peer}", _WAIT),
    _S.COMMITTING: Meaning(
        "guest {guest}'s reservations are on their way from {host} to {peer}",
        "it is tried again and again; or {do} rollback {guest} --at {api}",
    ),
    _S.COMMITTED: Meaning(
        "guest {guest}'s reservations are on {peer}, where it may run; on {host} its commands wait",
        "when it runs on {peer}, {do} finish {guest} --at {api}; if it does not, {do} rollback {guest} "
        "--at {api}",
    ),
    _S.SETTLING: Meaning("guest {guest} is on {peer} with its reservations", _WAIT),
    _S.TELLING: Meaning("guest {guest} is on {peer} with its reservations", _WAIT),
    _S.CONCEDING: Meaning("guest {guest}'s reservations were taken by {peer}", _WAIT),
    _S.YIELDING: Meaning(
        "guest {guest}'s reservations were taken by {peer}; what is left on {host} is being removed",
        "it is tried again and again; see to what hinders it",
    ),
    _S.GONE: Meaning("guest {guest} is on {peer} with its reservations"),
    _S.CLOSING: Meaning(_RETURNS, _SEE_TO),
    _S.ASKING: Meaning(_RETURNS, "it is tried again and again; see to what hinders it"),
    _S.RECLAIMING: Meaning(_RETURNS, "it is tried again and again; see to what hinders it"),
    _S.RETURNING: Meaning(_RETURNS, _SEE_TO),
    _S.RESUMING: Meaning(_RETURNS, "it is tried again and again; see to what hinders it"),
    _S.ISOLATING: Meaning(_RETURNS, "it is tried again and again; see to what hinders it"),
    _S.EVICTING: Meaning(_RETURNS, "it is tried again and again; see to what hinders it"),
    _S.INQUIRING: Meaning(_RETURNS, _SEE_TO),
    _S.STAYED: Meaning("guest {guest} is on {host} with its reservations"),
}

_ASK_SOURCE = "{peer} says what comes next"
_IF_DEAD = (
    _ASK_SOURCE + "; if it is dead: {do} take {guest} --at {api}, or, to remove what was prepared here: "
    "{do} rollback {guest} --at {api} --alone"
)
_THERE = "guest {guest} is on {peer}, or on its way back there"

_DESTINATION: Mapping[DestinationState, Meaning] = {
    _D.REGISTERING: Meaning("guest {guest} is on {peer}; its keys are being registered on {host}", _WAIT),
    _D.PREPARED: Meaning("guest {guest} is on {peer}; its keys are registered on {host} too", _IF_DEAD),
    _D.FAILED: Meaning("guest {guest} is on {peer}; on {host} what was asked last was not done", _IF_DEAD),
    _D.PREEMPTING: Meaning("guest {guest}'s reservations are on their way from {peer} to {host}", _WAIT),
    _D.COMMITTED: Meaning(
        "guest {guest}'s reservations are on {host}, where it may run",
        _ASK_SOURCE + "; if it is dead: {do} take {guest} --at {api}",
    ),
    _D.CLOSING: Meaning(_THERE, _WAIT),
    _D.CLOSED: Meaning(_THERE, _IF_DEAD),
    _D.RETURNING: Meaning(_THERE, _WAIT),
    _D.RETURNED: Meaning("guest {guest} is on {peer}"),
    _D.VERIFYING: Meaning("guest {guest} is on {host} with its reservations", _WAIT),
    _D.HERE: Meaning("guest {guest} is on {host} with its reservations"),
    _D.CLAIMING: Meaning("guest {guest}'s reservations are being taken from {peer}, which is dead", _WAIT),
    _D.ASSURING: Meaning(
        "guest {guest}'s reservations were committed to {host}, where it may run; {peer} is dead", _WAIT
    ),
    _D.TAKING: Meaning("guest {guest}'s reservations are being taken from {peer}, which is dead", _WAIT),
    _D.TAKEN: Meaning(
        "guest {guest}'s reservations were taken from {peer} and are on {host}, where it may run",
        "{peer} is told when it comes back; if it never will: {do} finish {guest} --at {api}",
    ),
    _D.WITHDRAWING: Meaning("guest {guest} is on {peer}; what is left on {host} is being removed", _WAIT),
}


def meaning_of(handover: HandoverState, api: str) -> Meaning:
    """What the state of a handover means; ``api`` is the address of the agent that told it."""
    found = (
        _SOURCE[SourceState(handover.state)]
        if handover.role == "source"
        else _DESTINATION[DestinationState(handover.state)]
    )
    words = {
        "guest": handover.guest,
        "host": handover.host,
        "peer": handover.peer,
        "api": api,
        "do": _COMMANDS,
    }
    return Meaning(found.now.format(**words), found.next.format(**words))
