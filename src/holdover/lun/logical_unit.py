"""A logical unit: one block device with its reservations and unit attentions (SPC-4, SBC-3).

Which answer a command gets is settled in this order, the order of SAM-5 5.3.3:

1. a pending unit attention of a reset: POWER ON, RESET, OR BUS DEVICE RESET OCCURRED and its like;
2. RESERVATION CONFLICT, by the tables of `access` or by the rules of the reservation command itself;
3. any other pending unit attention: RESERVATIONS RELEASED, REGISTRATIONS PREEMPTED and their like;
4. what is wrong with the CDB or the parameter list, and then the command itself.

An operation code that there is not conflicts with nothing.

INQUIRY, REPORT LUNS and REQUEST SENSE pass by the unit attentions (SAM-5 5.14.1).

Nothing here waits. `begin` decides, and gives the answer, or the work that is left on the medium, or a
change of the reservations that must be made durable before `commit`. `execute` does all of it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from holdover.lun import block, legacy
from holdover.lun.access import Standing, allowed, allowed_beside_reserve
from holdover.lun.block import Geometry, MediumWork
from holdover.lun.inquiry import Identity
from holdover.lun.medium import Medium
from holdover.lun.mode import mode_sense
from holdover.lun.persistent import carry_out, parameter_data
from holdover.lun.reservations import ReservationState, TargetLimits
from holdover.lun.unit_attention import RESET_CONDITIONS, UnitAttentions
from holdover.scsi.block import Capacity, LunList
from holdover.scsi.cdb import (
    Cdb,
    Inquiry,
    ModeSense6,
    ModeSense10,
    PersistentReserveIn,
    PersistentReserveOut,
    Read,
    ReadCapacity10,
    ReadCapacity16,
    Release,
    ReportLuns,
    RequestSense,
    Reserve,
    SynchronizeCache,
    TestUnitReady,
    Verify,
    Write,
    decode_cdb,
)
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import OperationCode as Op
from holdover.scsi.sense import AdditionalSense, Sense, SenseKey, check_condition
from holdover.scsi.status import Status

__all__ = ["RESERVATION_COMMANDS", "Answer", "LogicalUnit", "ReservationChange"]

_GOOD = Response(Status.GOOD)
_CONFLICT = Response(Status.RESERVATION_CONFLICT)

_OPERATIONS = frozenset(
    {
        Op.TEST_UNIT_READY,
        Op.REQUEST_SENSE,
        Op.READ_6,
        Op.WRITE_6,
        Op.INQUIRY,
        Op.RESERVE_6,
        Op.RELEASE_6,
        Op.MODE_SENSE_6,
        Op.READ_CAPACITY_10,
        Op.READ_10,
        Op.WRITE_10,
        Op.VERIFY_10,
        Op.SYNCHRONIZE_CACHE_10,
        Op.RESERVE_10,
        Op.RELEASE_10,
        Op.MODE_SENSE_10,
        Op.PERSISTENT_RESERVE_IN,
        Op.PERSISTENT_RESERVE_OUT,
        Op.READ_16,
        Op.WRITE_16,
        Op.VERIFY_16,
        Op.SYNCHRONIZE_CACHE_16,
        Op.SERVICE_ACTION_IN_16,
        Op.REPORT_LUNS,
        Op.READ_12,
        Op.WRITE_12,
        Op.VERIFY_12,
    }
)
_PAST_UNIT_ATTENTIONS = frozenset({Op.INQUIRY, Op.REPORT_LUNS, Op.REQUEST_SENSE})
RESERVATION_COMMANDS = frozenset(
    {Op.PERSISTENT_RESERVE_OUT, Op.RESERVE_6, Op.RESERVE_10, Op.RELEASE_6, Op.RELEASE_10}
)
"""The commands that change reservations; they find their conflicts by rules of their own, not by the
tables of `access`."""

_PERSISTENT = frozenset({Op.PERSISTENT_RESERVE_IN, Op.PERSISTENT_RESERVE_OUT})

_NO_RESERVATIONS = ReservationState()
_ONE_PORT = TargetLimits()

_ALL_LUNS, _WELL_KNOWN_LUNS, _EVERY_LUN = 0x00, 0x01, 0x02


@dataclass(frozen=True, slots=True)
class ReservationChange:
    """A reservation command that ends in GOOD, decided but not yet in force.

    Attributes:
        state: The persistent reservations afterwards.
        legacy_holder: The I_T nexus of a RESERVE(6) or RESERVE(10) afterwards, or None.
        attentions: Unit attention conditions to establish.
        aborted: I_T nexuses whose commands PREEMPT AND ABORT aborts.
    """

    state: ReservationState
    legacy_holder: ITNexus | None
    attentions: tuple[tuple[ITNexus, AdditionalSense], ...] = ()
    aborted: tuple[ITNexus, ...] = ()


Answer = Response | MediumWork | ReservationChange
"""What `LogicalUnit.begin` gives."""


class LogicalUnit:
    """One logical unit.

    Args:
        medium: Where its blocks are.
        identity: Who it is.
        state: The reservations that it starts with.
        limits: The target's ports, and how many registrations it keeps.
        luns: What REPORT LUNS answers: the logical unit numbers as they stand on the wire, 8 bytes each.
        greet: Whether an I_T nexus met for the first time has the unit attention for power on.
        maximum_transfer: Blocks that one command may transfer.
    """

    def __init__(
        self,
        medium: Medium,
        identity: Identity,
        *,
        state: ReservationState = _NO_RESERVATIONS,
        limits: TargetLimits = _ONE_PORT,
        luns: Callable[[], tuple[bytes, ...]] = lambda: (bytes(8),),
        greet: bool = True,
        maximum_transfer: int = 16384,
    ) -> None:
        self.identity = identity
        self.geometry = Geometry(medium.size // 512, maximum_transfer=maximum_transfer)
        self._medium = medium
        self._limits = limits
        self._luns = luns
        self._attentions = UnitAttentions(greet)
        self._legacy_holder: ITNexus | None = None
        self._state = state
        self._settle()

    @property
    def state(self) -> ReservationState:
        """The persistent reservations in force."""
        return self._state

    @property
    def legacy_holder(self) -> ITNexus | None:
        """The I_T nexus that holds a RESERVE(6) or RESERVE(10), or None."""
        return self._legacy_holder

    def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command at once. Never raises for what a command or the medium holds."""
        answer = self.begin(nexus, command)
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, ReservationChange):
            return self.commit(answer)
        return answer.run(self._medium)

    def begin(self, nexus: ITNexus, command: Command) -> Answer:
        """Decide on a command. Nothing has changed after it but the unit attention that it reported."""
        opcode = command.opcode
        attention = self._attentions.first(nexus)
        if attention is not None and opcode not in _PAST_UNIT_ATTENTIONS:
            if attention not in RESET_CONDITIONS and self._conflicts(nexus, command):
                return _CONFLICT
            self._attentions.take(nexus)
            return check_condition(SenseKey.UNIT_ATTENTION, attention)
        return self._decide(nexus, command)

    def commit(self, change: ReservationChange) -> Response:
        """Put a change into force; no other may have been committed since `begin` made it."""
        self._state = change.state
        self._legacy_holder = change.legacy_holder
        self._settle()
        for nexus, condition in change.attentions:
            self._attentions.establish(nexus, condition)
        return _GOOD

    def reset(self) -> None:
        """LOGICAL UNIT RESET (SAM-5 6.3.3): persistent reservations stay (SPC-4 5.13.1), those of RESERVE go
        (SPC-2 5.5.1), and every I_T nexus is told."""
        self._legacy_holder = None
        self._settle()
        self._attentions.reset(AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED)

    def nexus_lost(self, nexus: ITNexus) -> None:
        """I_T nexus loss (SAM-5 6.3.4): as a reset, for one I_T nexus."""
        if self._legacy_holder == nexus:
            self._legacy_holder = None
            self._settle()
        self._attentions.lose(nexus)

    def _settle(self) -> None:
        """Look up once, not with every command, what each nexus is to the reservation."""
        held = self._state.reservation
        self._standings = {
            each.nexus: self._state.standing(each.nexus)
            for each in (self._state.registrations if held is not None else ())
        }
        self._restricted = held is not None or self._legacy_holder is not None

    def _decide(self, nexus: ITNexus, command: Command) -> Answer:
        cdb = command.cdb
        if command.opcode not in _OPERATIONS:
            return _illegal(AdditionalSense.INVALID_COMMAND_OPERATION_CODE)
        if self._restricted and self._refused_by_table(nexus, cdb):
            return _CONFLICT
        try:
            decoded = decode_cdb(cdb)
        except DecodeError:
            return _illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        return self._perform(nexus, decoded, command.data_out)

    def _conflicts(self, nexus: ITNexus, command: Command) -> bool:
        """Whether a command would end in RESERVATION CONFLICT."""
        if command.opcode in RESERVATION_COMMANDS:
            return self._decide(nexus, command) is _CONFLICT
        return (
            self._restricted and command.opcode in _OPERATIONS and self._refused_by_table(nexus, command.cdb)
        )

    def _refused_by_table(self, nexus: ITNexus, cdb: bytes) -> bool:
        opcode = cdb[0]
        if self._legacy_holder is not None:
            if opcode in _PERSISTENT:
                return True
            mine = self._legacy_holder == nexus or opcode in RESERVATION_COMMANDS
            return not mine and not allowed_beside_reserve(cdb)
        held = self._state.reservation
        if held is None or opcode in RESERVATION_COMMANDS:
            return False
        return not allowed(cdb, held.type, self._standings.get(nexus, Standing.NOT_REGISTERED))

    def _perform(self, nexus: ITNexus, cdb: Cdb, data_out: bytes) -> Answer:
        match cdb:
            case Read():
                return block.read(cdb, self.geometry)
            case Write():
                return block.write(cdb, data_out, self.geometry)
            case SynchronizeCache():
                return block.synchronize_cache(cdb, self.geometry)
            case Verify():
                return block.verify(cdb, data_out, self.geometry)
            case TestUnitReady():
                return _GOOD
            case PersistentReserveIn():
                data = parameter_data(cdb, self._state, self._limits)
                return _data_in(data, cdb.allocation_length)
            case PersistentReserveOut():
                return self._persistent_reserve_out(nexus, cdb, data_out)
            case Reserve() | Release():
                return self._reserve_or_release(nexus, cdb)
            case RequestSense():
                return self._request_sense(nexus, cdb)
            case Inquiry():
                return self._inquiry(nexus, cdb)
            case ReadCapacity10():
                return Response(Status.GOOD, self._capacity().encode_10())
            case ReadCapacity16():
                return _data_in(self._capacity().encode_16(), cdb.allocation_length)
            case ModeSense6() | ModeSense10():
                return _data_in(mode_sense(cdb, self.geometry), cdb.allocation_length)
            case ReportLuns():
                return self._report_luns(cdb)
        # An operation code that there is, with a service action that there is not.
        return _illegal(AdditionalSense.INVALID_FIELD_IN_CDB)

    def _persistent_reserve_out(self, nexus: ITNexus, cdb: PersistentReserveOut, data_out: bytes) -> Answer:
        outcome = carry_out(cdb, data_out, self._state, nexus, self._limits)
        if outcome.conflict:
            return _CONFLICT
        if outcome.problem is not None:
            return _illegal(outcome.problem)
        return ReservationChange(outcome.state, self._legacy_holder, outcome.attentions, outcome.aborted)

    def _reserve_or_release(self, nexus: ITNexus, cdb: Reserve | Release) -> Answer:
        if cdb.third_party or cdb.extent:
            return _illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        rule = legacy.reserve if isinstance(cdb, Reserve) else legacy.release
        outcome = rule(self._state, self._legacy_holder, nexus)
        return _CONFLICT if outcome.conflict else ReservationChange(self._state, outcome.holder)

    def _request_sense(self, nexus: ITNexus, cdb: RequestSense) -> Response:
        """A pending unit attention as parameter data, which clears it (SPC-4 6.39)."""
        condition = self._attentions.take(nexus)
        sense = Sense(SenseKey.NO_SENSE) if condition is None else Sense(SenseKey.UNIT_ATTENTION, condition)
        return _data_in(sense.encode(cdb.descriptor_format), cdb.allocation_length)

    def _inquiry(self, nexus: ITNexus, cdb: Inquiry) -> Response:
        if cdb.page_code is None:
            data = self.identity.standard(len(self._limits.ports))
            return _data_in(data, cdb.allocation_length)
        page = self.identity.vital_product_data(cdb.page_code, nexus.target_port, self.geometry)
        if page is None:
            return _illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        return _data_in(page, cdb.allocation_length)

    def _capacity(self) -> Capacity:
        return Capacity(self.geometry.blocks, self.geometry.block_length)

    def _report_luns(self, cdb: ReportLuns) -> Response:
        """REPORT LUNS (SPC-4 6.33); a target answers it for all its logical units, this one stands in."""
        if cdb.select_report not in (_ALL_LUNS, _WELL_KNOWN_LUNS, _EVERY_LUN) or cdb.allocation_length < 16:
            return _illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        luns = () if cdb.select_report == _WELL_KNOWN_LUNS else self._luns()
        return _data_in(LunList(luns).encode(), cdb.allocation_length)


def _data_in(data: bytes | AdditionalSense, allocation_length: int) -> Response:
    if isinstance(data, AdditionalSense):
        return _illegal(data)
    return Response(Status.GOOD, data[:allocation_length])


def _illegal(additional: AdditionalSense) -> Response:
    return check_condition(SenseKey.ILLEGAL_REQUEST, additional)
