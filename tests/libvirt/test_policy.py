"""The policy: every combination of what is asked and what is known, and all interleavings on two hosts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from holdover.libvirt.policy import (
    NO_HANDOVER,
    Decision,
    Known,
    Other,
    Question,
    Refusal,
    Task,
    Whereabouts,
    decide,
)

ASKED = (Question.BEGINS, Question.MAY_RUN)
BOOL = (False, True)


def everything() -> Iterator[tuple[Question, Known]]:
    """All combinations of what is asked and what is known."""
    for question, place, other, *rest in itertools.product(
        Question, Whereabouts, Other, BOOL, BOOL, BOOL, BOOL, BOOL
    ):
        incoming, alive, granted, post_copy, failed = rest
        yield (
            question,
            Known(
                place=place,
                other=other,
                incoming=incoming,
                alive=alive,
                granted=granted,
                post_copy=post_copy,
                failed=failed,
            ),
        )


ALL = list(everything())


def test_each_combination_has_one_answer_or_one_task() -> None:
    for question, known in ALL:
        found = decide(question, known)
        said = [found.yes, found.refusal is not None, found.task is not None]
        assert sum(said) == 1 or (question is Question.ENDED and found == Decision()), (question, known)


def test_outside_of_handovers_the_answer_is_yes_at_once() -> None:
    for question, known in ALL:
        if known.place in NO_HANDOVER and question is Question.MAY_RUN:
            assert decide(question, known) == Decision(yes=True), known
        if known.place in (Whereabouts.HERE, Whereabouts.LEAVING) and question is Question.BEGINS:
            assert decide(question, known) == Decision(yes=True), known


def test_a_guest_that_nobody_knows_starts() -> None:
    known = Known(place=Whereabouts.NOT_TRACKED)
    assert decide(Question.BEGINS, known) == Decision(task=Task.ASK_ALL)
    for said in (Other.NOBODY, Other.UNREACHABLE):
        assert decide(Question.BEGINS, replace(known, other=said)) == Decision(yes=True)


def test_in_post_copy_nothing_that_lives_is_refused() -> None:
    for question, known in ALL:
        if question is Question.MAY_RUN and known.post_copy and known.alive:
            assert decide(question, known).refusal is None, known


def test_a_qemu_that_begins_moves_no_reservation() -> None:
    allowed = {
        None,
        Task.ASK_ALL,
        Task.ASK_DESTINATION,
        Task.PREPARE,
        Task.ROLL_BACK,
        Task.TRY_AGAIN,
    }
    for question, known in ALL:
        if question is Question.BEGINS:
            assert decide(question, known).task in allowed, known
            assert known.place is not Whereabouts.COMING or known.failed or decide(question, known).yes


def test_a_fresh_qemu_does_not_run_while_one_lives_elsewhere() -> None:
    for place in (Whereabouts.COMING, Whereabouts.AWAY):
        known = Known(place=place, other=Other.RUNS)
        assert decide(Question.MAY_RUN, known) == Decision(refusal=Refusal.RUNS_THERE)
    for question in ASKED:
        granted = Known(place=Whereabouts.LEFT, other=Other.GRANTED)
        assert decide(question, granted) == Decision(refusal=Refusal.RUNS_THERE)


def test_what_cannot_be_asked_is_refused_as_in_doubt() -> None:
    for question, place in (
        (Question.MAY_RUN, Whereabouts.LEFT),
        (Question.BEGINS, Whereabouts.AWAY),
        (Question.BEGINS, Whereabouts.LEFT),
    ):
        known = Known(place=place, other=Other.UNREACHABLE)
        assert decide(question, known) == Decision(refusal=Refusal.IN_DOUBT)


def test_a_migration_from_nowhere_is_refused() -> None:
    known = Known(place=Whereabouts.AWAY, other=Other.NOBODY, incoming=True)
    assert decide(Question.MAY_RUN, known) == Decision(refusal=Refusal.FROM_NOWHERE)
    assert decide(Question.MAY_RUN, replace(known, incoming=False)) == Decision(task=Task.OPEN)


def test_the_end_of_a_qemu_gives_back_what_was_not_used_and_finishes_what_was() -> None:
    for _, known in ALL:
        found = decide(Question.ENDED, known)
        arrives = known.place in (Whereabouts.COMING, Whereabouts.COME) and not known.granted
        expected = Task.ASK_ROLL_BACK if arrives else Task.FINISH if known.place is Whereabouts.LEFT else None
        assert found == Decision(task=expected), known


def test_a_destination_whose_qemu_has_ended_is_told_so_whatever_else_has_failed() -> None:
    for place, failed in itertools.product((Whereabouts.COMING, Whereabouts.COME, Whereabouts.AWAY), BOOL):
        known = Known(place=place, alive=False, failed=failed)
        assert decide(Question.MAY_RUN, known) == Decision(refusal=Refusal.QEMU_ENDED)


@pytest.mark.parametrize("refusal", list(Refusal))
def test_each_refusal_can_be_filled_in(refusal: Refusal) -> None:
    text = refusal.value.format(guest="db1", host="a", peer="b", why="it is down")
    assert "db1" in text
    assert "{" not in text
