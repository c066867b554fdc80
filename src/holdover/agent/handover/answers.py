"""The answers to requests about a handover: its state, or why the host did not do what was asked."""

from __future__ import annotations

from dataclasses import dataclass

from holdover.agent.handover.destination import DestinationHandover
from holdover.agent.handover.source import SourceHandover
from holdover.api.documents import HandoverState, LunState, Problem
from holdover.handover.protocol import Destination, Source
from holdover.handover.source_rules import is_told_at_once
from holdover.handover.state_table import Place
from holdover.handover.states import DestinationState, SourceState
from holdover.migrate.state_description import place_of

Handover = SourceHandover | DestinationHandover


class HandoverProblem(Exception):
    """The host did not do what was asked of a handover; ``problem`` says why, and what is true now."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class HandoverSummary:
    """A handover without its LUNs: whose it is, how far it is, and whether it can go on and is certain."""

    guest: str
    handover_id: str
    role: str
    peer: str
    state: str
    open: bool
    problem: str
    in_doubt: bool


def open_summary_of(handover: Handover) -> HandoverSummary | None:
    """The summary of a handover on record; None if it is over, or has not begun."""
    state_machine = handover.executor.written or handover.state_machine
    if state_machine is None or not state_machine.is_open:
        return None
    return _summary(handover, state_machine)


def summary_of(host: str, handover: Handover) -> HandoverSummary:
    """What `state_of` says, without the LUNs and without what took how long.

    Raises:
        HandoverProblem: The handover never began.
    """
    return _summary(handover, _state_machine(host, handover))


def _summary(handover: Handover, state_machine: Source | Destination) -> HandoverSummary:
    return HandoverSummary(
        guest=state_machine.guest,
        handover_id=state_machine.handover_id,
        role=_role(state_machine),
        peer=state_machine.peer,
        state=state_machine.state.value,
        open=state_machine.is_open,
        problem=_problem(handover, state_machine),
        in_doubt=is_in_doubt(state_machine),
    )


def _role(state_machine: Source | Destination) -> str:
    return "source" if isinstance(state_machine, Source) else "destination"


def refusal(host: str, guest: str, problem: str, about: Handover | None = None) -> HandoverProblem:
    """The `HandoverProblem` to raise where the host has done nothing at all.

    ``about`` is the guest's handover, if there is one.
    """
    text = f"guest {guest}: {problem}" if guest else problem
    state_machine = None if about is None else about.executor.written or about.state_machine
    if about is None or state_machine is None:
        return HandoverProblem(Problem(detail=text, host=host, guest=guest))
    state, in_doubt = state_machine.state.value, is_in_doubt(state_machine)
    return HandoverProblem(Problem(detail=text, host=host, guest=guest, state=state, in_doubt=in_doubt))


def state_of(host: str, handover: Handover, *, spans: bool = True) -> HandoverState:
    """The state of a handover, as this host's record of the handover has it.

    Without ``spans`` it says nothing of what took how long.

    Raises:
        HandoverProblem: The handover never began.
    """
    state_machine = _state_machine(host, handover)
    return HandoverState(
        handover_id=state_machine.handover_id,
        guest=state_machine.guest,
        host=host,
        role=_role(state_machine),
        peer=state_machine.peer,
        state=state_machine.state.value,
        open=state_machine.is_open,
        luns=tuple(map(LunState.of, state_machine.luns)),
        reason=state_machine.reason if isinstance(state_machine, Source) else "",
        problem=_problem(handover, state_machine),
        in_doubt=is_in_doubt(state_machine),
        spans=handover.executor.spans.so_far() if spans else (),
    )


def reached(host: str, handover: Handover, state: SourceState | DestinationState) -> HandoverState:
    """The handover's state, if that state is ``state``.

    Raises:
        HandoverProblem: The handover is in another state. The error says why, and whether it is in doubt.
    """
    state_machine = _state_machine(host, handover)
    is_refused = bool(handover.executor.problem) and not (
        isinstance(state_machine, Source) and is_told_at_once(state_machine)
    )
    if state_machine.state is state and not is_refused:
        # A guest may stand still for this answer. Thousands of spans would cost it milliseconds.
        return state_of(host, handover, spans=False)
    reason = state_machine.reason if isinstance(state_machine, Source) else ""
    parts = [part for part in (reason, _problem(handover, state_machine)) if part]
    raise HandoverProblem(
        Problem(
            detail="; then: ".join(parts)
            or f"handover {state_machine.handover_id} is {state_machine.state.value}",
            host=host,
            guest=state_machine.guest,
            state=state_machine.state.value,
            in_doubt=is_in_doubt(state_machine),
        )
    )


def _state_machine(host: str, handover: Handover) -> Source | Destination:
    """The handover as it is on record, so that a crash never makes an answer untrue; or as it is now, where a
    restarted agent finds that out anyway.

    Before the handover is on record, no LUN was changed for it and no other host was told of it.
    """
    now = handover.state_machine
    state_machine = now if isinstance(now, Source) and is_told_at_once(now) else handover.executor.written
    if state_machine is None:
        state_machine = now
    if state_machine is None:
        raise refusal(host, "", "nothing of this handover was begun")
    return state_machine


def is_in_doubt(state_machine: Source | Destination) -> bool:
    """Whether it is uncertain where the guest's reservations are, judged by the handover's record.

    A journal that refuses to write does not put a handover in doubt: nothing follows from a state before that
    state is on record.
    """
    if state_machine.state is DestinationState.COMMITTED and state_machine.problem:
        return True
    return place_of(state_machine.state) is Place.UNKNOWN


def _problem(handover: Handover, state_machine: Source | Destination) -> str:
    doubt = handover.doubt if isinstance(handover, DestinationHandover) else ""
    return handover.executor.problem or state_machine.problem or doubt
