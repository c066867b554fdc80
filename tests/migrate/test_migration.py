"""A migration as a value: whatever happens in whatever order, the guest runs in one QEMU at most."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.api.migration_documents import MigrationOptions
from holdover.migrate.migration import Migration, MigrationEvent, NotNow, next_of, now_of, step
from holdover.migrate.phases import PHASES, Happening, Phase, Where

FRESH = Migration(migration_id="m1", guest="db1", source="host-a", destination="host-b", began=0.0)
TOLD_TO_RUN = frozenset({Phase.STARTING, Phase.ENDING})
"""From here on the destination's QEMU may have been told to run the guest."""
LETS_SOURCE_RUN = frozenset({Phase.CANCELLING, Phase.RESUMING})

happenings = st.lists(st.sampled_from(Happening), max_size=40)


def go(*happened: Happening, migration: Migration = FRESH) -> Migration:
    for each in happened:
        migration = step(migration, MigrationEvent(each, f"because of {each.value}"))
    return migration


def walk(happened: list[Happening]) -> list[tuple[Migration, Happening, Migration]]:
    """The steps that have a meaning, of those drawn."""
    steps = []
    migration = FRESH
    for each in happened:
        try:
            after = step(migration, MigrationEvent(each, each.value))
        except NotNow:
            continue
        steps.append((migration, each, after))
        migration = after
    return steps


def test_a_migration_without_trouble_goes_through_its_phases_in_order() -> None:
    migration = FRESH
    seen = [migration.phase]
    while migration.is_open:
        migration = go(Happening.DONE, migration=migration)
        seen.append(migration.phase)
    assert seen == [
        Phase.CHECKING,
        Phase.PREPARING,
        Phase.OPENING,
        Phase.COPYING,
        Phase.SWITCHING,
        Phase.STARTING,
        Phase.FINISHING,
        Phase.FETCHING,
        Phase.MOVED,
    ]
    assert migration.moved


@given(happenings)
def test_the_source_runs_the_guest_again_only_if_the_destination_never_did(drawn: list[Happening]) -> None:
    told = False
    for before, happening, after in walk(drawn):
        if before.phase in TOLD_TO_RUN:
            told = True
        proof = (before.phase, happening) in {
            (Phase.STARTING, Happening.GONE),
            (Phase.ENDING, Happening.DONE),
        }
        if proof:
            told = False
        assert not (told and after.phase in LETS_SOURCE_RUN | {Phase.RETURNING})


@given(happenings)
def test_after_the_commit_was_asked_for_the_reservations_come_back_before_the_guest(
    drawn: list[Happening],
) -> None:
    committed = returned = False
    for before, happening, after in walk(drawn):
        committed = committed or before.phase is Phase.SWITCHING
        returned = returned or (before.phase is Phase.RETURNING and happening is Happening.DONE)
        assert not (committed and not returned and after.phase in LETS_SOURCE_RUN)


@given(happenings)
def test_a_guest_that_stays_has_a_reason_and_an_end_says_what_is_true(drawn: list[Happening]) -> None:
    for _, _, after in walk(drawn):
        if after.phase is Phase.STAYED:
            assert after.reason
        assert "{" not in now_of(after) + next_of(after)
        if after.phase is not Phase.STAYED or after.ended_here:
            assert next_of(after)


@given(happenings)
def test_a_qemu_that_has_ended_is_not_said_to_run_the_guest(drawn: list[Happening]) -> None:
    for _, _, after in walk(drawn):
        if after.phase is Phase.STAYED and after.ended_here:
            assert "does not run" in now_of(after)
            assert "start its QEMU on host-a" in next_of(after)
        if after.phase is Phase.MOVED and after.ended_there:
            assert "start its QEMU on host-b" in next_of(after)


@pytest.mark.parametrize("phase", [each for each in Phase if not PHASES[each].final])
def test_every_phase_comes_to_an_end_and_survives_a_restart(phase: Phase) -> None:
    assert Happening.RESTARTED in PHASES[phase].follows
    reached, left = {phase}, deque([phase])
    while left:
        for happening, following in PHASES[left.popleft()].follows.items():
            good = (Happening.DONE, Happening.GONE, Happening.FAILED)
            if happening in good and following not in reached:
                reached.add(following)
                left.append(following)
    assert reached & {Phase.MOVED, Phase.STAYED}


def test_only_a_phase_that_is_not_final_has_work_and_every_phase_is_reached() -> None:
    reached = {Phase.CHECKING} | {after for spec in PHASES.values() for after in spec.follows.values()}
    assert reached == set(Phase)
    assert {phase for phase in Phase if PHASES[phase].final} == {Phase.MOVED, Phase.STAYED}


@pytest.mark.parametrize("phase", Phase)
def test_it_is_cancelled_only_while_the_guest_runs_on_the_source(phase: Phase) -> None:
    spec = PHASES[phase]
    if spec.cancellable:
        assert spec.where is Where.SOURCE
        assert phase in {Phase.CHECKING, Phase.PREPARING, Phase.OPENING, Phase.COPYING}


def test_what_has_no_meaning_is_refused_and_changes_nothing() -> None:
    switching = go(*[Happening.DONE] * 4)
    with pytest.raises(NotNow, match="cancel: migration m1 is switching"):
        step(switching, MigrationEvent(Happening.CANCEL))


def test_a_restart_while_the_guest_is_copied_asks_what_is_true() -> None:
    copying = go(*[Happening.DONE] * 3)
    assert copying.sent
    asks = go(Happening.RESTARTED, migration=copying)
    assert asks.phase is Phase.ASCERTAINING
    assert go(Happening.BEFORE, migration=asks).phase is Phase.COPYING
    assert go(Happening.DONE, migration=asks).phase is Phase.SWITCHING


def test_what_was_learned_is_kept() -> None:
    checked = step(FRESH, MigrationEvent(Happening.DONE, was_running=False))
    opened = step(
        step(checked, MigrationEvent(Happening.DONE)),
        MigrationEvent(Happening.DONE, uri="tcp:h:1", tls_name="h"),
    )
    assert (opened.was_running, opened.uri, opened.tls_name) == (False, "tcp:h:1", "h")
    assert "stands paused" in now_of(opened)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"bandwidth": 0}, "bandwidth must be more than 0"),
        ({"max_downtime": -1}, "max_downtime must be more than 0"),
        ({"timeout": 0.0}, "timeout must be more than 0 s"),
        ({"multifd": 0}, "multifd must be 1 to 255"),
        ({"compression": "rot13"}, "compression must be zlib or zstd"),
        ({"postcopy": True, "multifd": 2}, "postcopy goes neither with multifd"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        MigrationOptions(**options)  # type: ignore[arg-type]


def test_what_the_destination_may_have_been_told_is_on_record() -> None:
    done = Happening.DONE
    migration = go(done, done, done, done)
    assert (migration.phase, migration.run_requested) == (Phase.SWITCHING, False)
    assert go(done, migration=migration).run_requested
    # a restarted agent finds the commit on record: the guest may run there by now
    again = step(go(Happening.RESTARTED, migration=migration), MigrationEvent(done, run_requested=True))
    assert (again.phase, again.run_requested) == (Phase.SWITCHING, True)
