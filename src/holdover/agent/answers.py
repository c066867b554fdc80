"""What is answered to those who ask for something of a handover: its state, or why it was not done."""

from __future__ import annotations

from holdover.agent.api import HandoverState, Problem
from holdover.agent.destination_handover import DestinationHandover
from holdover.agent.source_handover import SourceHandover
from holdover.handover.protocol import Destination, Source
from holdover.handover.states import DestinationState, SourceState

__all__ = ["Handover", "HandoverProblem", "reached", "refusal", "state_of", "what_next"]

Handover = SourceHandover | DestinationHandover

_RESTS = frozenset(
    {
        SourceState.PREPARED,
        SourceState.COMMITTED,
        DestinationState.PREPARED,
        DestinationState.COMMITTED,
        DestinationState.TAKEN,
    }
)
"""Open states in which it is certain where the guest's reservations are."""


class HandoverProblem(Exception):
    """What was asked of a handover was not done; ``problem`` says why, and what is true."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.error)
        self.problem = problem


def refusal(host: str, guest: str, problem: str, state: str = "") -> HandoverProblem:
    """What is raised where nothing was done at all."""
    text = f"guest {guest}: {problem}" if guest else problem
    return HandoverProblem(Problem(error=text, host=host, guest=guest, state=state))


def state_of(host: str, handover: Handover) -> HandoverState:
    """What a handover's own host says of it.

    Raises:
        HandoverProblem: Nothing of it was begun.
    """
    machine = _machine(host, handover)
    return HandoverState(
        handover=machine.handover,
        guest=machine.guest,
        host=host,
        role="source" if isinstance(machine, Source) else "destination",
        peer=machine.peer,
        state=machine.state.value,
        open=machine.is_open,
        luns=machine.luns,
        reason=machine.reason if isinstance(machine, Source) else "",
        problem=_problem(handover, machine),
        in_doubt=_is_in_doubt(handover, machine),
        spans=handover.workshop.spans.so_far(),
    )


def reached(host: str, handover: Handover, state: SourceState | DestinationState) -> HandoverState:
    """The handover's state, if it is the one that was asked for.

    Raises:
        HandoverProblem: It is another one; says why, and whether anything is in doubt.
    """
    machine = _machine(host, handover)
    if machine.state is state and not handover.workshop.problem:
        return state_of(host, handover)
    reason = machine.reason if isinstance(machine, Source) else ""
    parts = [part for part in (reason, _problem(handover, machine)) if part]
    raise HandoverProblem(
        Problem(
            error="; then: ".join(parts) or f"handover {machine.handover} is {machine.state.value}",
            host=host,
            guest=machine.guest,
            state=machine.state.value,
            in_doubt=_is_in_doubt(handover, machine),
        )
    )


def _machine(host: str, handover: Handover) -> Source | Destination:
    """The handover as it is on record, so that nothing is said that a crash would unsay. Before anything is,
    nothing of it was done on a LUN, nor told to anybody."""
    machine = handover.workshop.written
    if machine is None:
        machine = handover.machine
    if machine is None:
        raise refusal(host, "", "nothing of this handover was begun")
    return machine


def _is_in_doubt(handover: Handover, machine: Source | Destination) -> bool:
    """Whether it is not certain where the guest's reservations are; with a journal that refuses it is more
    than what is on record that may be true."""
    if handover.workshop.problem or (machine.state is DestinationState.COMMITTED and machine.problem):
        return True
    return machine.is_open and machine.state not in _RESTS


def _problem(handover: Handover, machine: Source | Destination) -> str:
    doubt = handover.doubt if isinstance(handover, DestinationHandover) else ""
    return handover.workshop.problem or machine.problem or doubt


def what_next(state: SourceState) -> str:
    """What may be asked of a source in a state."""
    return {
        SourceState.PREPARED: "commit or roll back",
        SourceState.COMMITTED: "finish or roll back",
        SourceState.STAYED: "the guest has stayed; prepare anew",
        SourceState.GONE: "the guest has gone",
    }.get(state, "roll back, or wait")
