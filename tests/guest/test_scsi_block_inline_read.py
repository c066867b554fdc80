"""A PERSISTENT RESERVE IN that another thread carries out: what `glance` says, against what `hear` does."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.guest.gate import Gate
from holdover.guest.machine_type import MachineType
from holdover.guest.options import DeviceOptions
from holdover.guest.scsi_block import ScsiBlock
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status

READ_KEYS = in_command(InServiceAction.READ_KEYS, 64)
CAPABILITIES = in_command(InServiceAction.REPORT_CAPABILITIES, 8)
REGISTER = out_command(OutServiceAction.REGISTER, 0, 5)

responses = st.one_of(
    st.integers(0, 3).map(lambda number: Response(Status.GOOD, ReadKeys(number, (5,)).encode())),
    st.sampled_from(
        [
            Response(Status.GOOD),
            Response(Status.RESERVATION_CONFLICT),
            Response(Status.GOOD, bytes([0, 8, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0])),
            check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_PREEMPTED),
            check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB),
        ]
    ),
)
reads = st.sampled_from([*(in_command(action, 64) for action in InServiceAction), Command(b"\x5e")])
steps = st.lists(
    st.one_of(st.tuples(reads, responses), st.sampled_from(["begin", "end", "begin own", "end own"])),
    max_size=8,
)


def block(*, migrate_pr: bool = True) -> ScsiBlock:
    found = ScsiBlock(DeviceOptions("d", "x", migrate_pr), MachineType.parse("q35"), Gate.RUNNING)
    found.adopt(Tracked(5), generation=1)
    return found


def everything(found: ScsiBlock) -> object:
    return (
        found.state(),
        found.staleness_epoch,
        found.has_pending_attention,
        copy.copy(found._generation._seen),
    )


@given(steps=steps, migrate_pr=st.booleans())
def test_what_a_glance_answers_would_teach_nothing(
    steps: list[tuple[Command, Response] | str], migrate_pr: bool
) -> None:
    one = block(migrate_pr=migrate_pr)
    out = None
    for step in steps:
        if step == "begin":
            if out is None:
                out = one.process(REGISTER)
                next(out)
        elif step == "end":
            if out is not None:
                with pytest.raises(StopIteration):
                    out.send(Response(Status.GOOD))
                out = None
        elif step == "begin own":
            one.begin_own()
        elif step == "end own":
            one.end_own()
        elif not isinstance(step, str):
            command, response = step
            before = everything(one)
            answer = one.observe_unchanged(command, response)
            assert everything(one) == before
            heard = one.observe_reservation_in(command, response, one.sent)
            if answer is not None:
                assert heard == answer
                assert everything(one) == before


def test_a_generation_that_is_known_is_answered_at_a_glance_and_another_one_is_not() -> None:
    one = block()
    one.adopt(Tracked(5), generation=7)
    keys = Response(Status.GOOD, ReadKeys(7, (5,)).encode())
    assert one.observe_unchanged(READ_KEYS, keys) == keys
    moved = Response(Status.GOOD, ReadKeys(8, (5,)).encode())
    assert one.observe_unchanged(READ_KEYS, moved) is None
    one.observe_reservation_in(READ_KEYS, moved, one.sent)
    assert one.stale


def test_a_generation_that_nothing_is_known_to_compare_with_is_no_matter_for_a_glance() -> None:
    one = block()
    one.adopt(Tracked(5))
    keys = Response(Status.GOOD, ReadKeys(7, (5,)).encode())
    assert one.observe_unchanged(READ_KEYS, keys) is None
    one.observe_reservation_in(READ_KEYS, keys, one.sent)
    assert one.stale
    epoch = one.staleness_epoch
    one.adopt(Tracked(5), epoch, 7)
    assert one.observe_unchanged(READ_KEYS, keys) == keys


def test_the_mask_is_there_at_a_glance() -> None:
    answer = block().observe_unchanged(
        CAPABILITIES, Response(Status.GOOD, bytes([0, 8, 0xFF, 0x80, 0, 0, 0, 0]))
    )
    assert answer is not None
    assert answer.data_in[2] == 0xF3


def test_what_was_read_beside_a_command_that_changes_registrations_says_nothing_of_the_generation() -> None:
    one = block()
    one.adopt(Tracked(5), generation=7)
    sent = one.sent
    out = one.process(out_command(OutServiceAction.REGISTER, 5, 6))
    next(out)
    with pytest.raises(StopIteration):
        out.send(Response(Status.GOOD))
    before = Response(Status.GOOD, ReadKeys(7, (5,)).encode())
    assert one.observe_unchanged(READ_KEYS, before) is None
    one.observe_reservation_in(READ_KEYS, before, sent)
    assert not one.stale
    after = Response(Status.GOOD, ReadKeys(8, (6,)).encode())
    one.observe_reservation_in(READ_KEYS, after, one.sent)
    assert not one.stale
