"""ScsiBlock under whatever a guest can send, against the embedded logical unit.

The logical unit is the judge: after any sequence, what is tracked is what READ FULL STATUS says of the
guest's I_T nexus.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from holdover.guest.scsi_block import ScsiBlock
from holdover.lun.logical_unit import LogicalUnit
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.cdb import TestUnitReady as UnitReady
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.status import Status
from tests.guest.rig import GUEST, THIRD, drive, logical_unit, scsi_block, truth
from tests.rig.amounts import amount

# Few keys, so that they meet; and types and lengths that the standard does not have.
_keys = st.sampled_from([0, 1, 2, 0xFFFFFFFFFFFFFFFF])
_types = st.sampled_from([1, 3, 5, 6, 7, 8]) | st.integers(0, 15)
_scopes = st.sampled_from([0, 0, 0, 0, 1, 2])
_actions = st.sampled_from(OutServiceAction) | st.integers(0, 31)
_lengths = st.sampled_from([24] * 12 + [0, 8, 16, 23, 25, 28, 0xFFFFFFFF])


def _out(
    action: int, length: int, type_: int, scope: int, key: int, new_key: int, flags: int, there: int
) -> Command:
    data = key.to_bytes(8, "big") + new_key.to_bytes(8, "big") + bytes(4) + bytes([flags]) + bytes(7)
    return Command(PersistentReserveOut(action, length, type_, scope).encode(), data[:there])


guesses = st.builds(
    _out,
    _actions,
    _lengths,
    _types,
    _scopes,
    _keys,
    _keys,
    st.sampled_from([0, 0, 0, 1, 1, 4, 8, 0xFF]),
    st.sampled_from([24] * 12 + [28, 23, 8, 0]),
)


@dataclass(frozen=True)
class Step:
    """A command that is made when its turn comes, so that most find the right key and type."""

    nexus: ITNexus
    action: OutServiceAction
    type: int
    new_key: int
    aptpl: bool
    right: bool

    def command(self, lun: LogicalUnit) -> Command:
        """The command for the logical unit as it now is."""
        key, kind, state = self.new_key, self.type, lun.state
        if self.right:
            key = state.key_of(self.nexus)
            if self.action == OutServiceAction.RELEASE and state.reservation is not None:
                kind = state.reservation.type
        return _out(self.action, 24, kind, 0, key, self.new_key, self.aptpl, 24)


def _steps(nexus: ITNexus, kinds: list[int]) -> st.SearchStrategy[Step]:
    return st.builds(
        Step,
        st.just(nexus),
        st.sampled_from([each for each in OutServiceAction if each != OutServiceAction.REGISTER_AND_MOVE]),
        st.sampled_from(kinds),
        st.sampled_from([1, 1, 2, 0]),
        st.booleans(),
        st.sampled_from([True] * 7 + [False]),
    )


anything = st.builds(
    lambda opcode, rest, data, room: Command(bytes([opcode]) + rest, data, room),
    st.sampled_from([OperationCode.PERSISTENT_RESERVE_OUT, OperationCode.PERSISTENT_RESERVE_IN])
    | st.integers(0, 255),
    st.binary(max_size=20),
    st.binary(max_size=80) | st.binary(min_size=8, max_size=8),
    st.integers(0, 70000),
)

reserve_in = st.builds(
    lambda action, length: Command(PersistentReserveIn(action, length).encode(), data_in_length=length),
    st.integers(0, 5),
    st.integers(0, 24),
)


def _sent(lun: LogicalUnit, block: ScsiBlock, command: Command) -> Response:
    return drive(block, command, lambda each: lun.execute(GUEST, each))


@settings(max_examples=amount(1_500, 10_000), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), st.lists(anything | guesses | reserve_in, min_size=1, max_size=3))
def test_anything_gets_an_answer(greet: bool, commands: list[Command]) -> None:
    lun, block = logical_unit(greet), scsi_block()
    block.adopt(Tracked(), generation=0)
    conflict = False
    for command in commands:
        response = _sent(lun, block, command)
        conflict |= response.status is Status.RESERVATION_CONFLICT
        assert isinstance(response.status, Status)
        if command.cdb[:2] == b"\x5e\x02" and response.good and len(response.data_in) > 2:
            assert not response.data_in[2] & 0x0C
    lun.reset()  # a RESERVE(6) would keep the judge out
    assert block.tracked == truth(lun)
    assert conflict or not block.stale


@settings(max_examples=amount(200, 600), deadline=None)
@given(st.lists(_steps(GUEST, [1, 3, 5, 6, 7, 8]) | guesses, min_size=5, max_size=25))
def test_tracked_is_what_the_logical_unit_says(commands: list[Step | Command]) -> None:
    lun, block = logical_unit(), scsi_block()
    conflict = False
    for each in commands:
        response = _sent(lun, block, each.command(lun) if isinstance(each, Step) else each)
        conflict |= response.status is Status.RESERVATION_CONFLICT
        assert block.tracked == truth(lun)
        assert conflict or not block.stale


_REGISTERS = (OutServiceAction.REGISTER, OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY)


# The third nexus sends no REGISTER AND MOVE and takes no all registrants reservation: either would make the
# guest a holder without a command of its own.
@settings(max_examples=amount(400, 1_500), deadline=None)
@given(
    st.lists(_steps(GUEST, [1, 3, 5, 6, 7, 8]) | _steps(THIRD, [1, 3, 5, 6]), min_size=5, max_size=25),
)
def test_beside_a_third_nexus_a_success_leaves_the_truth_or_a_mark(steps: list[Step]) -> None:
    lun, block = logical_unit(), scsi_block()
    for step in steps:
        _meet_attentions(lun)
        command = step.command(lun)
        if step.nexus is THIRD:
            lun.execute(THIRD, command)
        elif _sent(lun, block, command).good:
            assert block.stale or _comparable(block.tracked, step) == _comparable(truth(lun), step)


def _comparable(tracked: Tracked, step: Step) -> Tracked:
    """Without what the third nexus can do to the guest unseen: set APTPL, which is the whole logical
    unit's, and, while both are registered, share or release an all registrants reservation."""
    if step.action in _REGISTERS and tracked.type is not None and tracked.type.all_registrants:
        tracked = replace(tracked, type=None)
    return replace(tracked, aptpl=False)


def _meet_attentions(lun: LogicalUnit) -> None:
    for nexus in (GUEST, THIRD):
        while not lun.execute(nexus, Command(UnitReady().encode())).good:
            pass
