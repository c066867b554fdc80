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
    Seen,
    Task,
    Whereabouts,
    decide,
    observe,
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


def test_a_fresh_qemu_waits_for_the_end_of_the_sources_qemu_after_a_commit() -> None:
    known = Known(place=Whereabouts.COME)
    assert decide(Question.MAY_RUN, known) == Decision(task=Task.ASK_SOURCE)
    for said, expected in (
        (Other.RUNS, Decision(refusal=Refusal.RUNS_THERE)),
        (Other.UNREACHABLE, Decision(refusal=Refusal.IN_DOUBT)),
        (Other.ENDED, Decision(task=Task.GRANT)),
    ):
        assert decide(Question.MAY_RUN, replace(known, other=said)) == expected
        # of a migration libvirt itself has ended the sending
        migrated = replace(known, other=said, incoming=True)
        assert decide(Question.MAY_RUN, migrated) == Decision(task=Task.GRANT)
        assert decide(Question.MAY_RUN, replace(known, other=said, granted=True)) == Decision(yes=True)


def everything_seen() -> Iterator[tuple[Seen, Known]]:
    """All combinations of what libvirt passes on and what is known."""
    for seen, place, other, *rest in itertools.product(Seen, Whereabouts, Other, BOOL, BOOL, BOOL):
        failed, stopped, gated = rest
        yield seen, Known(place=place, other=other, failed=failed, stopped=stopped, gated=gated)


def test_an_event_commits_only_a_guest_that_leaves_and_has_stopped() -> None:
    for seen, known in everything_seen():
        found = observe(seen, known)
        commits = (
            seen is not Seen.RUNS
            and known.place is Whereabouts.LEAVING
            and known.stopped
            and not known.failed
            and (known.gated or seen is Seen.SENT)
        )
        assert (found == Decision(task=Task.COMMIT_HERE)) == commits, (seen, known)
        assert found.yes is False
        if seen is not Seen.RUNS and not commits:
            assert found == Decision(), (seen, known)


def test_a_guest_that_goes_on_by_itself_is_taken_back_unless_it_runs_elsewhere() -> None:
    for seen, known in everything_seen():
        if seen is not Seen.RUNS:
            continue
        found = observe(seen, known)
        if known.place is not Whereabouts.LEFT:
            assert found == Decision(), known
        elif known.failed:
            assert found == Decision(task=Task.TRY_AGAIN), known
        else:
            expected = {
                Other.UNASKED: Decision(task=Task.ASK_DESTINATION),
                Other.GRANTED: Decision(refusal=Refusal.RUNS_THERE),
                Other.NOT_GRANTED: Decision(task=Task.ROLL_BACK),
            }
            assert found == expected.get(known.other, Decision(task=Task.TRY_AGAIN)), known


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
