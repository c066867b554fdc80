from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.paths.multipath_command import DeviceRegistration, registration_of
from holdover.paths.multipath_steps import Send
from holdover.scsi.cdbs.cdb import Inquiry, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_out import ParameterList, in_command, out_command
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, is_unit_attention
from tests.lun.support import TEST_UNIT_READY, TWO_PORTS, initiator, make_unit, sense_of
from tests.paths.multipath_device import (
    BUSY,
    CLEAR,
    CONFLICT,
    GOOD,
    IGNORE,
    ONE,
    OTHER,
    PATHS,
    PREEMPT,
    REGISTER,
    RELEASE,
    RESERVE,
    THIRD,
    WE,
    WE_AR,
    WE_RO,
    Device,
    K,
    L,
    held,
    past_attentions,
)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.fixture
def holder() -> Device:
    """Registered with K on every path, and holding a reservation for registrants."""
    found = Device()
    assert found.out(REGISTER, 0, K).good
    assert found.out(RESERVE, K, kind=WE_RO).good
    return found


ABORTED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)


def lose(path: int) -> Callable[[Send], PathError | None]:
    return lambda request: AnswerLost("sdx", "gone") if request.path == path else None


def refuse(path: int) -> Callable[[Send], PathError | None]:
    return lambda request: PathError("sdx", "gone") if request.path == path else None


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_a_registration_reaches_every_path(device: Device, action: OutServiceAction) -> None:
    assert device.out(action, 0, K, aptpl=True) == GOOD
    assert device.keys() == [K, K, K]
    assert device.unit.state.aptpl
    assert device.out(REGISTER, K, L) == GOOD
    assert device.keys() == [L, L, L]
    assert device.out(REGISTER, L, 0) == GOOD
    assert device.keys() == [0, 0, 0]


def test_registering_again_or_with_a_wrong_key_is_a_conflict_and_changes_nothing(holder: Device) -> None:
    for old, new in ((0, K), (0, L), (L, K), (L, 0), (0, 0)):
        assert holder.out(REGISTER, old, new) == CONFLICT
        assert holder.keys() == [K, K, K]
        assert holder.held() == (K, WE_RO)


def test_asking_for_the_key_registers_a_path_that_lacks_it(holder: Device) -> None:
    holder.directly(PATHS[1], REGISTER, K, 0)
    assert holder.out(REGISTER, K, K) == GOOD
    assert holder.keys() == [K, K, K]
    assert holder.held() == (K, WE_RO), "libmpathpersist 0.9.4 unregisters the path that holds it"


def test_a_change_of_the_key_reaches_a_path_that_lacks_the_old_one(holder: Device) -> None:
    holder.directly(PATHS[0], IGNORE, 0, L)
    holder.directly(PATHS[1], REGISTER, K, 0)
    assert holder.out(REGISTER, K, L) == GOOD
    assert holder.keys() == [L, L, L]


@pytest.mark.parametrize(("old", "new"), [(K, K), (K, L)])
def test_a_path_with_a_strange_key_is_left_alone_and_all_is_put_back(
    holder: Device, old: int, new: int
) -> None:
    holder.directly(PATHS[1], REGISTER, K, 0)
    holder.directly(PATHS[2], REGISTER, K, THIRD)
    assert holder.out(REGISTER, old, new) == CONFLICT
    assert holder.keys() == [K, 0, THIRD]
    assert holder.held() == (K, WE_RO)


def test_nobody_who_was_preempted_half_way_comes_back(holder: Device) -> None:
    holder.directly(PATHS[1], REGISTER, K, 0)
    holder.directly(OTHER, REGISTER, 0, THIRD)

    def preempt(request: Send, response: Response) -> Response:
        if request == Send(2, out_command(REGISTER, K, K)):
            command = out_command(PREEMPT, THIRD, K, type=WE_RO)
            assert holder.unit.execute(OTHER, command).good
        return response

    holder.after = preempt
    assert holder.out(REGISTER, K, K) == CONFLICT
    assert holder.keys() == [0, 0, 0]
    assert holder.held() == (THIRD, WE_RO)


def test_a_first_registration_is_taken_back_where_a_path_has_another_key(device: Device) -> None:
    device.directly(PATHS[2], REGISTER, 0, THIRD)
    assert device.out(REGISTER, 0, K) == CONFLICT
    assert device.keys() == [0, 0, THIRD]


def test_a_first_registration_of_a_device_that_has_it_already_completes_it(device: Device) -> None:
    device.directly(PATHS[2], REGISTER, 0, K)
    assert device.out(REGISTER, 0, K) == CONFLICT
    assert device.keys() == [K, K, K]


def test_a_lost_answer_is_in_doubt_and_repeating_it_completes_it(device: Device) -> None:
    lost = Send(1, out_command(REGISTER, 0, K))
    device.fails = lambda request: AnswerLost("sdx", "gone") if request == lost else None
    with pytest.raises(AnswerLost):
        device.out(REGISTER, 0, K)
    device.fails = lambda _: None
    device.directly(PATHS[1], REGISTER, K, 0)
    assert device.out(REGISTER, K, K) == GOOD
    assert device.keys() == [K, K, K]


def test_a_path_that_cannot_be_asked_is_left_to_multipathd(device: Device) -> None:
    device.fails = refuse(1)
    assert device.out(REGISTER, 0, K) == GOOD
    assert device.keys() == [K, 0, K]
    device.fails = lambda _: PathError("sdx", "gone")
    with pytest.raises(PathError, match="gone"):
        device.out(REGISTER, K, L)
    with pytest.raises(PathError, match="gone"):
        device.out(RESERVE, K, kind=WE)


@pytest.mark.parametrize("old", [0, K])
def test_a_registration_that_one_path_refuses_is_taken_back(device: Device, old: int) -> None:
    """That path has carried it out, in spite of its answer."""
    if old:
        device.out(REGISTER, 0, old)
    command = out_command(REGISTER, old, L)
    device.after = lambda request, response: ABORTED if request == Send(2, command) else response
    assert device.out(REGISTER, old, L) == ABORTED
    assert device.keys() == [old, old, old]


def test_a_path_that_refuses_a_first_registration_keeps_what_it_had_before(device: Device) -> None:
    device.directly(PATHS[2], REGISTER, 0, L)
    command = out_command(REGISTER, 0, L)
    device.after = lambda request, response: ABORTED if request == Send(2, command) else response
    assert device.out(REGISTER, 0, L) == ABORTED
    assert device.keys() == [0, 0, L]


def test_the_first_unit_attention_is_the_answer_and_the_others_are_met(device: Device) -> None:
    for each in PATHS:
        device.directly(each, REGISTER, 0, THIRD)
    device.directly(OTHER, REGISTER, 0, L)
    device.directly(OTHER, CLEAR, L)
    first = device.out(REGISTER, 0, K)
    assert sense_of(first) == (SenseKey.UNIT_ATTENTION, AdditionalSense.RESERVATIONS_PREEMPTED)
    assert device.keys() == [0, 0, 0]
    assert device.out(REGISTER, 0, K) == GOOD
    assert device.keys() == [K, K, K]


def test_test_unit_ready_clears_the_unit_attentions_of_all_paths(device: Device) -> None:
    for each in PATHS:
        device.directly(each, REGISTER, 0, THIRD)
    device.directly(OTHER, REGISTER, 0, L)
    device.directly(OTHER, CLEAR, L)
    assert is_unit_attention(device.run(TEST_UNIT_READY))
    assert device.run(TEST_UNIT_READY).good
    assert all(device.unit.execute(each, TEST_UNIT_READY).good for each in PATHS)


def test_whichever_path_reserved_releases(holder: Device) -> None:
    holder.directly(PATHS[0], REGISTER, K, 0)
    assert past_attentions(holder.run, out_command(RESERVE, K, type=WE)) == GOOD
    holder.directly(PATHS[0], REGISTER, 0, K)
    assert holder.unit.state.holds(PATHS[1])
    assert holder.out(RESERVE, K, kind=WE) == GOOD, "again, as for one nexus"
    assert holder.out(RELEASE, K, kind=WE) == GOOD
    assert holder.held() is None


def test_a_release_of_the_wrong_type_is_refused_and_changes_nothing(holder: Device) -> None:
    holder.directly(OTHER, REGISTER, 0, THIRD)
    answer = holder.out(RELEASE, K, kind=WE)
    assert sense_of(answer) == (
        SenseKey.ILLEGAL_REQUEST,
        AdditionalSense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION,
    )
    assert holder.held() == (K, WE_RO)
    assert holder.unit.state.key_of(OTHER) == THIRD, "libmpathpersist 0.9.4 clears everything"


def test_a_release_that_the_holder_alone_refuses_is_refused(holder: Device) -> None:
    # as the Linux kernel's target says it: a nexus that does not hold it may name any key and type
    holder.instead = lambda request: (
        None if request.command.data_in_length else CONFLICT if request.path == 0 else GOOD
    )
    for key, kind in ((K, WE), (L, WE_RO)):
        assert holder.out(RELEASE, key, kind=kind) == CONFLICT


def test_a_release_does_not_mind_a_path_that_is_not_registered(holder: Device) -> None:
    holder.directly(PATHS[1], REGISTER, K, 0)
    assert holder.out(RELEASE, K, kind=WE_RO) == GOOD
    assert holder.held() is None
    assert holder.out(RELEASE, K, kind=WE_RO) == GOOD, "nothing is reserved"


def test_a_release_while_the_path_that_holds_it_is_away_is_not_said_to_be_done(holder: Device) -> None:
    holder.down = {0}
    with pytest.raises(PathError, match="mpatha: RELEASE: a path that cannot be reached holds"):
        holder.out(RELEASE, K, kind=WE_RO)
    assert holder.held() == (K, WE_RO)
    assert holder.out(RELEASE, L, kind=WE_RO) == CONFLICT
    holder.down = {2}
    assert holder.out(RELEASE, K, kind=WE_RO) == GOOD
    assert holder.held() is None


@pytest.mark.parametrize("preempted", [K, 0])
def test_a_preempt_of_the_own_key_keeps_the_registrations_of_all_paths(
    device: Device, preempted: int
) -> None:
    device.out(REGISTER, 0, K, aptpl=True)
    device.directly(OTHER, REGISTER, 0, THIRD)
    kind = WE_AR if preempted == 0 else WE_RO
    assert device.out(RESERVE, K, kind=kind).good
    aptpl = device.unit.state.aptpl
    assert past_attentions(device.run, out_command(PREEMPT, K, preempted, type=kind)) == GOOD
    assert device.keys() == [K, K, K]
    assert device.held() == (0 if preempted == 0 else K, kind)
    assert device.unit.state.key_of(OTHER) == (0 if preempted == 0 else THIRD)
    assert device.unit.state.aptpl is aptpl


def test_a_preempt_goes_once(holder: Device) -> None:
    holder.directly(OTHER, REGISTER, 0, THIRD)
    holder.log.clear()
    assert holder.out(PREEMPT, K, THIRD, WE_RO) == GOOD
    assert [each.command for each in holder.log if each.command.data_out] == [
        out_command(PREEMPT, K, THIRD, type=WE_RO)
    ]
    assert holder.unit.state.key_of(OTHER) == 0


def test_clear_goes_once(holder: Device) -> None:
    holder.log.clear()
    assert holder.out(CLEAR, K) == GOOD
    assert [each.command for each in holder.log if each.command.data_out] == [out_command(CLEAR, K)]
    assert holder.keys() == [0, 0, 0]


@pytest.mark.parametrize(("action", "kind"), [(RESERVE, WE), (CLEAR, None), (PREEMPT, WE)])
def test_a_lost_answer_is_not_tried_on_another_path(
    holder: Device, action: OutServiceAction, kind: ReservationType | None
) -> None:
    holder.fails = lose(0)
    holder.log.clear()
    with pytest.raises(AnswerLost):
        holder.out(action, K, 0 if kind is None else THIRD, kind)
    assert len(holder.log) == 1


def test_a_question_is_asked_again_on_the_next_path(holder: Device) -> None:
    holder.fails = lose(0)
    holder.log.clear()
    assert holder.run(in_command(InServiceAction.READ_KEYS)).good
    assert holder.run(Command(Inquiry(36).encode(), data_in_length=36)).good
    assert [each.path for each in holder.log] == [0, 1, 0, 1]
    holder.fails = lambda _: AnswerLost("sdx", "gone")
    with pytest.raises(AnswerLost):
        holder.run(in_command(InServiceAction.READ_KEYS))


def test_other_commands_move_on_only_where_they_were_not_sent(holder: Device) -> None:
    write = Command(bytes.fromhex("2a000000000000000100"), b"w" * 512)
    holder.fails = refuse(0)
    assert holder.run(write).good
    holder.fails = lose(0)
    with pytest.raises(AnswerLost):
        holder.run(write)


def malformed() -> dict[str, tuple[Command, AdditionalSense]]:
    length, spec_i_pt = AdditionalSense.PARAMETER_LIST_LENGTH_ERROR, ParameterList(0, K, spec_i_pt=True)
    right = ParameterList(0, K).encode()
    return {
        "no list": (Command(PersistentReserveOut(REGISTER, 0).encode()), length),
        "too short": (Command(PersistentReserveOut(REGISTER, 24).encode(), right[:23]), length),
        "too long": (Command(PersistentReserveOut(REGISTER, 28).encode(), right + bytes(4)), length),
        "SPEC_I_PT": (
            Command(PersistentReserveOut(REGISTER, 28).encode(), spec_i_pt.encode()),
            AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST,
        ),
        "REGISTER AND MOVE": (
            Command(PersistentReserveOut(OutServiceAction.REGISTER_AND_MOVE, 24).encode(), right),
            AdditionalSense.INVALID_FIELD_IN_CDB,
        ),
    }


@pytest.mark.parametrize("name", malformed())
def test_what_cannot_be_carried_out_is_refused(device: Device, name: str) -> None:
    command, additional = malformed()[name]
    assert sense_of(device.run(command)) == (SenseKey.ILLEGAL_REQUEST, additional)
    assert device.keys() == [0, 0, 0]


def test_all_target_ports_are_registered_by_the_first_path() -> None:
    device = Device(make_unit(limits=TWO_PORTS), [ITNexus(initiator("a"), port) for port in (1, 2)])
    parameters = ParameterList(0, K, all_tg_pt=True)
    command = Command(PersistentReserveOut(REGISTER, 24).encode(), parameters.encode())
    assert device.run(command) == GOOD
    assert device.keys() == [K, K]


def test_what_a_command_makes_of_the_registration() -> None:
    assert registration_of(out_command(REGISTER, K, L, aptpl=True)) == DeviceRegistration(L, True)
    assert registration_of(out_command(IGNORE, 0, L)) == DeviceRegistration(L, False)
    assert registration_of(out_command(REGISTER, K, 0)) == DeviceRegistration(0, False)
    assert registration_of(out_command(CLEAR, K)) == DeviceRegistration(0, False)
    for action in (RESERVE, RELEASE, PREEMPT):
        assert registration_of(out_command(action, K, L, type=WE)) is None
    assert registration_of(in_command(InServiceAction.READ_KEYS)) is None
    assert registration_of(Command(bytes([0x5F]))) is None


@st.composite
def commands(draw: st.DrawFn) -> Command:
    """Commands of a nexus that is mostly registered with K."""
    action = draw(st.sampled_from([REGISTER, IGNORE, RESERVE, RESERVE, RELEASE, PREEMPT, PREEMPT, CLEAR]))
    key = draw(st.sampled_from([K, K, K, L, 0]))
    new = draw(st.sampled_from([K, L, 0]))
    kind = None if action in (REGISTER, IGNORE, CLEAR) else draw(st.sampled_from([WE, WE_RO, WE_AR]))
    return out_command(action, key, new, type=kind, aptpl=draw(st.booleans()))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), commands()), max_size=20), st.booleans())
def test_a_device_with_three_paths_answers_as_one_nexus_does(
    story: list[tuple[bool, Command]], aptpl: bool
) -> None:
    device, single = Device(), make_unit()
    for by_other, command in [(False, out_command(REGISTER, 0, K, aptpl=aptpl)), *story]:
        who = partial(device.unit.execute, OTHER) if by_other else device.run
        ours = past_attentions(who, command)
        theirs = past_attentions(partial(single.execute, OTHER if by_other else ONE), command)
        assert ours == theirs
        assert set(device.keys()) == {single.state.key_of(ONE)}
        assert device.unit.state.key_of(OTHER) == single.state.key_of(OTHER)
        assert device.held() == held(single)
        assert device.unit.state.aptpl == single.state.aptpl


def busy(path: int) -> Callable[[Send], Response | None]:
    return lambda request: BUSY if request.path == path else None


def test_a_change_that_a_busy_path_refuses_is_put_back(device: Device) -> None:
    device.instead = busy(1)
    assert device.out(REGISTER, 0, K) == BUSY
    device.instead = lambda _: None
    assert device.keys() == [0, 0, 0]
    assert device.out(REGISTER, 0, K).good
    device.instead = busy(1)
    assert device.out(REGISTER, K, L) == BUSY
    assert device.keys() == [K, K, K]


def test_a_change_that_cannot_be_put_back_for_a_busy_path_is_in_doubt(holder: Device) -> None:
    holder.instead = busy(1)
    with pytest.raises(AnswerLost, match="a path answered BUSY after other paths had carried out"):
        holder.out(IGNORE, 0, L)
    assert holder.keys() == [L, K, L]
    with pytest.raises(AnswerLost, match="BUSY"):
        holder.out(RELEASE, L, kind=WE_RO)
    assert holder.held() is None
    with pytest.raises(AnswerLost, match="BUSY"):
        holder.out(REGISTER, L, 0)
    assert holder.keys() == [0, K, 0]


def test_a_path_that_is_too_busy_to_register_again_after_a_preempt_leaves_a_doubt(holder: Device) -> None:
    holder.instead = busy(1)
    with pytest.raises(AnswerLost, match="a path answered BUSY"):
        holder.out(PREEMPT, K, K, kind=WE_RO)
    assert holder.keys()[:2] == [K, 0]


def test_a_unit_attention_of_a_path_that_joins_may_say_that_the_device_was_fenced(holder: Device) -> None:
    past_attentions(partial(holder.unit.execute, OTHER), out_command(REGISTER, 0, THIRD))
    past_attentions(partial(holder.unit.execute, PATHS[2]), out_command(REGISTER, K, 0))
    told = check_condition(SenseKey.UNIT_ATTENTION, AdditionalSense.REGISTRATIONS_PREEMPTED)
    joining: list[Send] = []

    def meet(send: Send) -> Response | None:
        if send.command != out_command(REGISTER, 0, K):
            return None
        joining.append(send)
        assert past_attentions(partial(holder.unit.execute, OTHER), out_command(CLEAR, THIRD)).good
        return told

    holder.instead = meet
    assert holder.run(out_command(REGISTER, K, K)) == CONFLICT
    assert len(joining) == 1
    assert not any(holder.unit.state.key_of(each) for each in PATHS)


@pytest.mark.parametrize("failed", range(3))
def test_a_path_that_fails_during_a_registration_and_is_back_is_registered(
    device: Device, failed: int
) -> None:
    left = 1

    def fails(send: Send) -> PathError | None:
        nonlocal left
        if send.path != failed or send.command != out_command(REGISTER, 0, K) or not left:
            return None
        left -= 1
        return PathError("memory", "away")

    device.fails = fails
    assert device.run(out_command(REGISTER, 0, K)).good
    assert [device.unit.state.key_of(each) for each in PATHS] == [K, K, K]


@pytest.mark.parametrize("at", range(9))
@pytest.mark.parametrize("removes", [CLEAR, PREEMPT])
def test_a_path_that_joins_brings_back_nothing_that_another_node_removes_meanwhile(
    at: int, removes: OutServiceAction
) -> None:
    device = Device()
    assert device.run(out_command(REGISTER, 0, K)).good
    past_attentions(partial(device.unit.execute, OTHER), out_command(REGISTER, 0, THIRD))
    past_attentions(partial(device.unit.execute, PATHS[2]), out_command(REGISTER, K, 0))
    sent = 0

    def remove(_: Send) -> None:
        nonlocal sent
        if sent == at:
            fence = out_command(removes, THIRD, K if removes is PREEMPT else 0, type=WE)
            assert past_attentions(partial(device.unit.execute, OTHER), fence).good
        sent += 1

    device.before = remove
    device.run(out_command(REGISTER, K, K))
    if sent > at:
        assert not any(device.unit.state.key_of(each) for each in PATHS)
