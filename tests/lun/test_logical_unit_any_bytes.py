"""Any bytes get an answer by the standard (see `test_logical_unit`)."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.reservations import PersistentReservation, Registration, ReservationState
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import SenseKey, decode_sense
from holdover.scsi.status import Status
from tests.lun.support import ISID, TWO_PORTS, A, B, C, D, MemoryMedium, make_unit
from tests.rig.amounts import amount

REGISTRATIONS = (Registration(A, 1), Registration(B, 2), Registration(C, 1))
HELD = [PersistentReservation(kind, None if kind.all_registrants else A) for kind in ReservationType]
STATES = [
    ReservationState(),
    ReservationState(REGISTRATIONS),
    *(ReservationState(REGISTRATIONS, held, 5, True) for held in HELD),
]

# Keys that somebody has, so that the rules are reached and not the first refusal alone.
key_bytes = st.one_of(
    st.integers(0, 3).map(lambda key: key.to_bytes(8, "big")), st.binary(min_size=8, max_size=8)
)
transport_ids = st.sampled_from([b"abcd"[at : at + 1].decode() for at in range(4)]).map(
    lambda name: IscsiTransportID(f"iqn.2026-01.test:{name}", ISID).encode()
)


@st.composite
def parameter_lists(draw: st.DrawFn) -> bytes:
    data = draw(key_bytes) + draw(key_bytes) + bytes(4) + bytes([draw(st.integers(0, 15))]) + bytes(3)
    tail = b"".join(draw(st.lists(transport_ids, max_size=2)))
    form = draw(st.sampled_from(["basic", "ports", "move", "bytes"]))
    if form == "ports":
        data += len(tail).to_bytes(4, "big") + tail
    elif form == "move":
        unreg, port = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        data = data[:16] + bytes([0, unreg, 0, port]) + len(tail).to_bytes(4, "big") + tail
    elif form == "bytes":
        data = draw(st.binary(max_size=80))
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


@st.composite
def persistent_reserve_out(draw: st.DrawFn) -> Command:
    data = draw(parameter_lists())
    length = len(data) if draw(st.integers(0, 4)) else draw(st.integers(0, 64))
    action = draw(st.one_of(st.sampled_from([*map(int, OutServiceAction)]), st.integers(0, 31)))
    kind = draw(st.one_of(st.sampled_from([*map(int, ReservationType)]), st.integers(0, 255)))
    cdb = bytes([0x5F, action, kind, 0, 0, *length.to_bytes(4, "big"), 0])
    return Command(cdb, data)


@st.composite
def any_command(draw: st.DrawFn) -> Command:
    opcode = draw(st.one_of(st.sampled_from([*map(int, OperationCode)]), st.integers(0, 255)))
    rest = draw(
        st.one_of(
            st.binary(max_size=18),
            st.lists(st.integers(0, 4), min_size=15, max_size=15).map(bytes),
        )
    )
    data = draw(st.one_of(st.binary(max_size=64), st.integers(0, 4).map(lambda n: b"z" * (512 * n))))
    cdb = draw(st.sampled_from([bytes([opcode]) + rest, rest]))
    return Command(cdb, data, draw(st.integers(0, 4096)))


def check(unit: LogicalUnit, medium: MemoryMedium, nexus: ITNexus, command: Command) -> Response:
    """One command, and what must be true of the answer and of the logical unit whatever it was."""
    before, held_before, data_before = unit.state, unit.legacy_holder, bytes(medium.data)
    response = unit.execute(nexus, command)
    assert isinstance(response, Response)
    assert response.status in (Status.GOOD, Status.CHECK_CONDITION, Status.RESERVATION_CONFLICT)
    assert bool(response.sense) == (response.status is Status.CHECK_CONDITION)
    if response.sense:
        assert decode_sense(response.sense).key in (
            SenseKey.ILLEGAL_REQUEST,
            SenseKey.UNIT_ATTENTION,
            SenseKey.MISCOMPARE,
            SenseKey.COPY_ABORTED,
            SenseKey.NOT_READY,
            SenseKey.DATA_PROTECT,
        )
    if not response.good:
        assert unit.state is before
        assert unit.legacy_holder == held_before
        assert bytes(medium.data) == data_before
        assert not response.data_in
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        assert unit.state is before
    check_whole(unit.state)
    assert unit.legacy_holder is None or not unit.state.registrations
    return response


def check_whole(state: ReservationState) -> None:
    assert len({each.nexus for each in state.registrations}) == len(state.registrations)
    assert all(0 < each.key < 1 << 64 for each in state.registrations)
    if state.reservation is not None:
        assert any(state.holds(each.nexus) for each in state.registrations)
        assert state.reservation.type.all_registrants == (state.reservation.holder is None)


@settings(max_examples=amount(1_500, 10_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    state=st.sampled_from(STATES),
    nexus=st.sampled_from([A, B, C, D]),
    greet=st.integers(0, 9).map(lambda drawn: drawn == 0),
    command=st.one_of(any_command(), persistent_reserve_out()),
)
def test_one_command(state: ReservationState, nexus: ITNexus, greet: bool, command: Command) -> None:
    medium = MemoryMedium()
    check(make_unit(state, greet=greet, limits=TWO_PORTS, medium=medium), medium, nexus, command)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([A, B, C, D]),
            st.one_of(
                persistent_reserve_out(),
                any_command(),
                st.sampled_from([Command(bytes([opcode]) + bytes(9)) for opcode in (0x16, 0x17, 0)]),
            ),
        ),
        max_size=30,
    )
)
def test_many_commands(steps: list[tuple[ITNexus, Command]]) -> None:
    medium = MemoryMedium()
    unit = make_unit(limits=TWO_PORTS, medium=medium)
    for nexus, command in steps:
        check(unit, medium, nexus, command)


def test_every_allocation_length_to_24_of_every_service_action() -> None:
    for state in STATES:
        for action in range(32):
            for length in range(25):
                medium = MemoryMedium()
                cdb = bytes([0x5E, action, 0, 0, 0, 0, 0, 0, length, 0])
                response = check(make_unit(state, medium=medium), medium, D, Command(cdb))
                assert response.good == (action in [*InServiceAction])
                assert len(response.data_in) <= length


def test_every_parameter_list_length_to_32_of_every_service_action() -> None:
    for state in STATES:
        for action in range(32):
            for length in range(33):
                medium = MemoryMedium()
                cdb = bytes([0x5F, action, 1, 0, 0, 0, 0, 0, length, 0])
                data = (1).to_bytes(8, "big") + bytes(24)
                response = check(make_unit(state, medium=medium), medium, A, Command(cdb, data[:length]))
                assert length == 24 or not response.good
