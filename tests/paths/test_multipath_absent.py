"""What counts are the registrations that the logical unit keeps, and not the paths that there are.

Arrays that keep one registration for each initiator port, and paths that go and come back: between two
commands and in the middle of one.
"""

from __future__ import annotations

from functools import partial

import pytest
from msgspec import structs

from holdover.paths.multipath_absent import read_registrants
from holdover.paths.multipath_steps import InitiatorPorts, Send, Usable
from holdover.reservations.driver import run_sync
from holdover.scsi.cdbs.cdb import PersistentReserveIn
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import PathError
from holdover.scsi.reservation.reservation_in import ReadKeys, ReadReservation
from holdover.scsi.reservation.reservation_out import ParameterList, in_command, out_command
from holdover.scsi.reservation.transport_id import (
    FcTransportID,
    IscsiTransportID,
    SasTransportID,
    TransportID,
)
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition
from holdover.scsi.status import Status
from tests.lun.support import initiator, sense_of
from tests.paths.multipath_device import (
    BUSY,
    CLEAR,
    CONFLICT,
    FOUR,
    GOOD,
    IGNORE,
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
    four,
    past_attentions,
)


@pytest.fixture
def array() -> Device:
    """Four paths to a logical unit that keeps one registration for each initiator port."""
    return four(by_port=True)


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_a_registration_that_a_sibling_has_made_is_good(array: Device, action: OutServiceAction) -> None:
    answer = array.out(action, 0, K)
    assert answer == GOOD
    assert len(array.unit.state.registrations) == 2
    names = tuple(str(each.initiator) for each in FOUR)
    assert answer.carried == names, "each path counts, and two have one initiator port"
    assert array.out(REGISTER, 0, K) == CONFLICT, "it is registered now"
    assert array.out(REGISTER, 0, L) == CONFLICT
    assert array.keys() == [K] * 4


@pytest.mark.parametrize("by_port", [False, True])
def test_a_device_that_was_registered_before_conflicts(by_port: bool) -> None:
    device = four(by_port=by_port)
    device.directly(device.nexuses[1], REGISTER, 0, K)
    assert device.out(REGISTER, 0, K) == CONFLICT
    assert device.keys() == [K] * 4, "and is complete now"
    device = four(by_port=by_port)
    device.directly(device.nexuses[1], REGISTER, 0, THIRD)
    assert device.out(REGISTER, 0, K) == CONFLICT
    assert device.keys() == ([THIRD, THIRD, 0, 0] if by_port else [0, THIRD, 0, 0])


def test_every_service_action_on_an_array_that_counts_initiator_ports(array: Device) -> None:
    array.directly(OTHER, REGISTER, 0, THIRD)
    for action, key, new, kind in [
        (REGISTER, 0, K, None),
        (REGISTER, K, K, None),
        (RESERVE, K, 0, WE_RO),
        (REGISTER, K, L, None),
        (RESERVE, L, 0, WE_RO),
        (PREEMPT, L, L, WE_RO),
        (OutServiceAction.PREEMPT_AND_ABORT, L, L, WE_RO),
        (RELEASE, L, 0, WE_RO),
        (IGNORE, 0, K, None),
        (RESERVE, K, 0, WE_AR),
        (PREEMPT, K, 0, WE_AR),
        (RELEASE, K, 0, WE_AR),
        (REGISTER, K, 0, None),
        (REGISTER, 0, 0, None),
        (IGNORE, 0, L, None),
        (CLEAR, L, 0, None),
    ]:
        answer = past_attentions(array.run, out_command(action, key, new, type=kind))
        assert answer == GOOD, (action, key, new)
    assert array.keys() == [0] * 4


def test_a_path_that_multipathd_registers_meanwhile_is_no_conflict() -> None:
    device = Device()

    def register(request: Send) -> None:
        if request == Send(1, out_command(REGISTER, 0, K)):
            assert past_attentions(partial(device.unit.execute, PATHS[1]), request.command).good

    device.before = register
    assert device.out(REGISTER, 0, K) == GOOD
    assert device.keys() == [K, K, K]


@pytest.mark.parametrize("by_port", [False, True])
@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_all_target_ports_at_once(action: OutServiceAction, by_port: bool) -> None:
    device = four(by_port=by_port)
    for old, new in ((0, K), (K, L), (L, 0)):
        command = out_command(action, old, new)
        parameters = ParameterList(old, new, all_tg_pt=True)
        assert device.run(Command(command.cdb, parameters.encode())) == GOOD
        assert device.keys() == [new] * 4


def holder_away(device: Device | None = None, kind: ReservationType = WE_RO) -> Device:
    """A device that is registered with K, of which a path that is away holds the reservation."""
    device = device or Device()
    device.know_ports()
    assert device.out(REGISTER, 0, K).good
    assert device.out(RESERVE, K, kind=kind).good
    device.fail(0)
    return device


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
@pytest.mark.parametrize("kind", list(ReservationType))
def test_what_a_path_that_is_away_holds_goes_with_the_registration(
    kind: ReservationType, action: OutServiceAction
) -> None:
    device = holder_away(kind=kind)
    device.directly(OTHER, REGISTER, 0, THIRD)
    assert device.out(action, K if action is REGISTER else 0, 0) == GOOD
    assert device.keys() == [0, 0, 0]
    all_registrants = kind.all_registrants  # then the other initiator holds it too
    assert device.held() == ((0, kind) if all_registrants else None)
    assert device.unit.state.key_of(OTHER) == THIRD
    device.come_back(0)
    assert device.keys() == [0, 0, 0]
    answers = [device.out(REGISTER, 0, 0) for _ in range(2)]
    assert answers == [GOOD, GOOD], "the guest hears nothing of the PREEMPT"


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_it_follows_a_change_of_the_key(action: OutServiceAction) -> None:
    device = holder_away()
    assert device.out(action, K, L) == GOOD
    assert device.keys() == [0, L, L]
    assert device.held() == (L, WE_RO)
    device.come_back(0)
    assert device.keys() == [L, L, L], "multipathd registers it"
    assert device.out(RELEASE, L, kind=WE_RO) == GOOD
    assert device.held() is None


def test_it_is_released_by_a_path_that_is_there() -> None:
    device = holder_away()
    wrong = device.out(RELEASE, K, kind=WE)
    invalid = AdditionalSense.INVALID_RELEASE_OF_PERSISTENT_RESERVATION
    assert wrong == CONFLICT or sense_of(wrong) == (SenseKey.ILLEGAL_REQUEST, invalid)
    assert device.held() == (K, WE_RO)
    assert device.out(RELEASE, K, kind=WE_RO) == GOOD
    assert device.held() is None
    assert device.keys()[1:] == [K, K]


def test_to_reserve_again_is_no_conflict_where_the_holder_fails_meanwhile() -> None:
    device = Device()
    assert device.out(REGISTER, 0, K).good
    assert device.out(RESERVE, K, kind=WE_RO).good
    device.fails = lambda request: PathError("sdx", "gone") if request.path == 0 else None
    with pytest.raises(PathError, match="RESERVE: it is not known whether a path that is away"):
        device.out(RESERVE, K, kind=WE_RO)
    device.know_ports()
    assert device.out(RESERVE, K, kind=WE_RO) == GOOD


def test_to_reserve_again_is_good_and_something_else_is_a_conflict() -> None:
    device = holder_away()
    assert device.out(RESERVE, K, kind=WE_RO) == GOOD
    assert device.out(RESERVE, K, kind=WE) == CONFLICT
    assert device.held() == (K, WE_RO)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (out_command(REGISTER, K, 0), "REGISTER"),
        (out_command(REGISTER, K, L), "REGISTER"),
        (out_command(IGNORE, 0, L), "REGISTER AND IGNORE EXISTING KEY"),
        (out_command(RELEASE, K, type=WE_RO), "RELEASE"),
    ],
)
def test_a_third_node_with_the_same_key_is_not_hurt(command: Command, name: str) -> None:
    device = holder_away()
    device.directly(OTHER, REGISTER, 0, K)
    before, kept = device.unit.state, device.kept
    with pytest.raises(
        PathError, match=f"mpatha: {name}: .* same key as another node, .* nothing was changed"
    ):
        device.run(command)
    assert (device.unit.state.registrations, device.unit.state.reservation) == (
        before.registrations,
        before.reservation,
    )
    assert device.unit.state.aptpl == before.aptpl
    assert device.kept == kept
    device.come_back(0)
    assert device.run(command) == GOOD


@pytest.mark.parametrize("new", [0, L])
def test_a_handover_leaves_alone_what_a_path_that_is_away_has(new: int) -> None:
    device = holder_away()
    device.directly(OTHER, REGISTER, 0, K)
    assert device.run(structs.replace(out_command(REGISTER, K, new), leave_absent=True)) == GOOD
    assert device.keys() == [K, new, new]
    assert device.held() == (K, WE_RO)
    assert device.unit.state.key_of(OTHER) == K


def test_with_all_paths_there_the_same_key_of_a_third_node_is_no_matter() -> None:
    device = Device()
    device.know_ports()
    device.out(REGISTER, 0, K)
    device.directly(OTHER, REGISTER, 0, K)
    assert device.out(REGISTER, K, L) == GOOD
    assert device.out(REGISTER, L, 0) == GOOD
    assert (device.keys(), device.unit.state.key_of(OTHER)) == ([0, 0, 0], K)


def test_whose_the_others_are_may_be_unclear() -> None:
    device = Device()
    device.out(REGISTER, 0, K)
    device.out(RESERVE, K, kind=WE_RO)
    device.fail(0)
    for command in (out_command(REGISTER, K, 0), out_command(REGISTER, K, L), out_command(IGNORE, 0, L)):
        with pytest.raises(PathError, match=r"registered more often .* nothing was changed; wait"):
            device.run(command)
    with pytest.raises(PathError, match="RESERVE: it is not known whether a path that is away"):
        device.out(RESERVE, K, kind=WE_RO)
    with pytest.raises(PathError, match="RELEASE: a path that cannot be reached holds"):
        device.out(RELEASE, K, kind=WE_RO)
    assert device.keys() == [K, K, K]
    assert device.held() == (K, WE_RO)


def test_a_registration_by_a_target_port_to_which_no_path_leads_is_a_third_nodes() -> None:
    device = Device(nexuses=[ITNexus(initiator("a"), 1), ITNexus(initiator("b"), 2)])
    device.target_ports = frozenset({1, 2})
    device.fail(1)
    assert device.out(REGISTER, 0, K) == GOOD
    third = ITNexus(initiator("other"), 3)
    device.directly(third, REGISTER, 0, K)
    assert device.out(REGISTER, K, L) == GOOD
    assert device.out(REGISTER, L, 0) == GOOD
    assert (device.keys(), device.unit.state.key_of(third)) == ([0, 0], K)


@pytest.mark.parametrize(("registered", "refused"), [(False, False), (True, True)])
def test_a_logical_unit_without_full_status_is_asked_for_its_keys(registered: bool, refused: bool) -> None:
    device = Device()
    no_such_action = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
    full_status = in_command(InServiceAction.READ_FULL_STATUS).cdb[:2]
    device.instead = lambda request: no_such_action if request.command.cdb[:2] == full_status else None
    if registered:
        device.out(REGISTER, 0, K)
    device.fail(0)
    if refused:
        with pytest.raises(PathError, match="more often than by the paths"):
            device.out(REGISTER, K, 0)
        assert device.keys() == [K, K, K]
    else:
        assert device.out(REGISTER, 0, K) == GOOD
        assert device.out(REGISTER, K, 0) == GOOD
        assert device.keys() == [0, 0, 0]


@pytest.mark.parametrize(
    "command", [out_command(REGISTER, K, 0), out_command(REGISTER, K, L), out_command(RESERVE, K, type=WE_RO)]
)
def test_the_guest_hears_that_it_was_preempted(command: Command) -> None:
    device = holder_away()
    device.fail(1)
    device.directly(OTHER, REGISTER, 0, THIRD)
    past_attentions(partial(device.unit.execute, OTHER), out_command(PREEMPT, THIRD, K, type=WE_RO))
    assert sense_of(device.run(command)) == (
        SenseKey.UNIT_ATTENTION,
        AdditionalSense.REGISTRATIONS_PREEMPTED,
    )
    assert device.run(command) == CONFLICT


def test_a_path_that_was_removed_from_the_device_is_not_forgotten() -> None:
    device = holder_away()
    device.down.clear()
    gone = device.nexuses.pop(0)
    assert device.out(REGISTER, K, 0) == GOOD
    assert device.unit.state.key_of(gone) == 0
    assert device.held() is None


FC = [FcTransportID(bytes([0x10, 0, 0, 0, 0, 0, 0, number])) for number in range(3)]
SAS = [SasTransportID(bytes([0x50, 0, 0, 0, 0, 0, 0, number])) for number in range(3)]
SESSIONS = [IscsiTransportID("iqn.2026-01.test:a", bytes([0x80, 0, 0, 0, 0, number])) for number in range(3)]


@pytest.mark.parametrize("names", [FC, SAS, SESSIONS])
def test_a_registration_teaches_the_names_of_the_initiator_ports(names: list[TransportID]) -> None:
    device = Device(nexuses=[ITNexus(each) for each in names])
    third = ITNexus(initiator("third"))
    device.directly(third, REGISTER, 0, K)
    assert device.out(REGISTER, 0, K) == GOOD
    assert names[0] not in device.ports, "one of the four is a third node's"
    device.directly(third, REGISTER, K, THIRD)
    assert device.out(REGISTER, K, K) == GOOD
    assert all(each in device.ports for each in names)
    assert third.initiator not in device.ports
    assert device.out(RESERVE, K, kind=WE_RO) == GOOD
    device.fail(0)
    assert device.out(REGISTER, K, 0) == GOOD
    assert (device.keys(), device.held()) == ([0, 0, 0], None)


@pytest.mark.parametrize(
    "names",
    [
        [initiator("a"), initiator("b")],
        [IscsiTransportID("iqn.2026-01.test:a"), SESSIONS[0]],
        [SAS[0], SESSIONS[0]],
    ],
)
def test_names_that_may_stand_for_several_ports_are_not_learned(names: list[TransportID]) -> None:
    ports = InitiatorPorts()
    ports.learn(["host1", "host2"], names)
    assert not ports.cover(["host1"])
    assert names[0] not in ports


def test_keys_that_do_not_fit_the_first_answer_are_read_too() -> None:
    many = ReadKeys(1, tuple(range(1, 2001)))

    def answer(request: Send) -> Response:
        cdb = PersistentReserveIn.decode(request.command.cdb)
        if cdb.service_action == InServiceAction.READ_KEYS:
            return Response(Status.GOOD, many.encode()[: cdb.allocation_length])
        if cdb.service_action == InServiceAction.READ_RESERVATION:
            return Response(Status.GOOD, ReadReservation(1, None).encode())
        return check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)

    device = Usable("mpatha", (0,), ("port",))
    registrants = run_sync(read_registrants(0, device), answer)
    assert len(registrants.with_key(2000).unclear) == 1


@pytest.mark.parametrize("new", [0, L])
@pytest.mark.parametrize(
    "asked", [in_command(InServiceAction.REPORT_CAPABILITIES), out_command(REGISTER, K, K, aptpl=True)]
)
def test_a_question_that_gets_no_answer_changes_nothing(asked: Command, new: int) -> None:
    """The path that is away holds the reservation, and would keep it with the old key."""
    device = Device()
    assert device.out(REGISTER, 0, K, aptpl=True).good
    assert device.out(RESERVE, K, kind=WE).good
    device.fail(0)
    device.instead = lambda request: BUSY if request.command.cdb == asked.cdb and not moved(request) else None
    assert device.out(REGISTER, K, new, aptpl=True) == BUSY
    device.instead = lambda _: None
    assert device.keys() == [K, K, K]
    assert device.unit.state.aptpl


def moved(request: Send) -> bool:
    """Whether a command changes the key."""
    keys = request.command.data_out
    return bool(keys) and keys[:8] != keys[8:16]
