"""What the lock server answers by itself."""

from __future__ import annotations

import itertools
from dataclasses import replace

from holdover.libvirt.lock_rules import Asked, Course, Listed, course

BOOL = (False, True)
ALL = [
    Asked(listed=listed, begins=begins, passes=passes, incoming=incoming, post_copy=post_copy)
    for listed, begins, passes, incoming, post_copy in itertools.product(Listed, BOOL, BOOL, BOOL, BOOL)
]
WITHOUT_THE_AGENT = frozenset({Course.YES, Course.ASK_ELSE_YES})


def test_a_tracked_guest_never_runs_without_the_agents_answer() -> None:
    for asked in ALL:
        if asked.listed is Listed.TRACKED:
            assert course(asked) not in WITHOUT_THE_AGENT, asked


def test_a_guest_without_a_reservation_starts_whatever_the_agent_does() -> None:
    for asked in ALL:
        fresh = replace(asked, incoming=False)
        if asked.listed is Listed.NOT_TRACKED or (asked.listed is Listed.NO_LIST and not asked.passes):
            assert course(fresh) in WITHOUT_THE_AGENT, fresh


def test_a_qemu_that_can_pass_no_reservation_needs_nobody() -> None:
    for asked in ALL:
        if asked.listed is not Listed.TRACKED and not asked.passes and not asked.begins:
            assert course(asked) is Course.YES


def test_an_arrival_with_scsi_block_needs_the_agent() -> None:
    """Its source may have tracked its first registration since the agent here ended."""
    for asked in ALL:
        if asked.incoming and asked.passes and not asked.begins:
            assert course(asked) not in WITHOUT_THE_AGENT, asked


def test_in_post_copy_nothing_is_refused_for_want_of_the_agent() -> None:
    for asked in ALL:
        assert (course(asked) is Course.ASK_ELSE_NO) <= (not asked.post_copy), asked
