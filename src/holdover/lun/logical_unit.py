"""A logical unit: one block device with its reservations and unit attentions (SPC-4, SBC-3).

The answer of a command is decided in this order, which is the order of SAM-5 5.3.3:

1. a pending unit attention of a reset: POWER ON, RESET, OR BUS DEVICE RESET OCCURRED and its like;
2. RESERVATION CONFLICT, by the tables of `access` or by the rules of the reservation command itself;
3. any other pending unit attention: RESERVATIONS RELEASED, REGISTRATIONS PREEMPTED and their like;
4. NOT READY while the logical unit is stopped or sanitizing, DATA PROTECT when it cannot be written;
5. errors in the CDB or the parameter list, and then the command itself.

An unknown operation code conflicts with nothing.

Unit attentions do not stop INQUIRY, REPORT LUNS and REQUEST SENSE (SAM-5 5.14.1).

Nothing here waits. `begin` decides on a command. It returns the answer, or the work to do on the medium, or a
change of the reservations that must be durable before `commit`, or a sanitize operation that runs until
`sanitized`. `execute` does all of this at once.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from holdover.lun import legacy
from holdover.lun.access import Standing, allowed, allowed_beside_reserve
from holdover.lun.commands import block, combined, provisioning
from holdover.lun.commands.answers import GOOD, data_in, illegal
from holdover.lun.commands.block import Flush, Geometry
from holdover.lun.commands.copy import CopyResults, CopyWork, extended_copy
from holdover.lun.commands.diagnosis import read_defect_data, send_diagnostic
from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.commands.mode import ModeParameters, mode_select, mode_sense
from holdover.lun.commands.operations import OPERATIONS, READY, TASK_MANAGEMENT, WRITING, report_supported
from holdover.lun.commands.persistent import carry_out, parameter_data
from holdover.lun.commands.sanitize import SanitizeState, SanitizeWork, sanitize
from holdover.lun.commands.work import MediumWork
from holdover.lun.medium import Medium
from holdover.lun.reservations import ReservationState, TargetLimits
from holdover.lun.unit_attention import RESET_CONDITIONS, UnitAttentions
from holdover.scsi.block import Capacity, LunList
from holdover.scsi.cdbs.cdb import (
    Cdb,
    CompareAndWrite,
    ExtendedCopy,
    GetLbaStatus,
    Inquiry,
    ModeSelect,
    ModeSense6,
    ModeSense10,
    OrWrite,
    PersistentReserveIn,
    PersistentReserveOut,
    PreFetch,
    PreventAllowMediumRemoval,
    Read,
    ReadCapacity10,
    ReadCapacity16,
    ReadDefectData,
    ReceiveCopyResults,
    Release,
    ReportLuns,
    ReportSupportedOperationCodes,
    ReportSupportedTaskManagementFunctions,
    RequestSense,
    Reserve,
    Sanitize,
    SendDiagnostic,
    StartStopUnit,
    SynchronizeCache,
    TestUnitReady,
    Unmap,
    Verify,
    Write,
    WriteAndVerify,
    WriteSame,
    decode_cdb,
)
from holdover.scsi.cdbs.opcodes import OperationCode as Op
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, Sense, SenseKey, check_condition, decode_sense
from holdover.scsi.status import Status

_CONFLICT = Response(Status.RESERVATION_CONFLICT)

_PAST_UNIT_ATTENTIONS = frozenset({Op.INQUIRY, Op.REPORT_LUNS, Op.REQUEST_SENSE})
RESERVATION_COMMANDS = frozenset(
    {Op.PERSISTENT_RESERVE_OUT, Op.RESERVE_6, Op.RESERVE_10, Op.RELEASE_6, Op.RELEASE_10}
)
"""The commands that change reservations. Rules of their own decide on their conflicts, not the tables of
`access`."""

STATE_COMMANDS = frozenset(
    {Op.MODE_SELECT_6, Op.MODE_SELECT_10, Op.START_STOP_UNIT, Op.SANITIZE, Op.EXTENDED_COPY}
)
"""The commands for which `begin` may change state and still return work: call it only once for each."""

_PERSISTENT = frozenset({Op.PERSISTENT_RESERVE_IN, Op.PERSISTENT_RESERVE_OUT})

_NO_RESERVATIONS = ReservationState()
_ONE_PORT = TargetLimits()

_ALL_LUNS, _WELL_KNOWN_LUNS, _EVERY_LUN = 0x00, 0x01, 0x02
_START_VALID, _ACTIVE, _LU_CONTROL = 0x0, 0x1, 0x7
_POWER_CONDITIONS = frozenset({_START_VALID, _ACTIVE, 0x2, 0x3, _LU_CONTROL, 0xA, 0xB})


class ReservationChange(msgspec.Struct, frozen=True, gc=False):
    """A reservation command that ends in GOOD, decided but not yet in force.

    Attributes:
        state: The persistent reservations afterwards.
        legacy_holder: The I_T nexus of a RESERVE(6) or RESERVE(10) afterwards, or None.
        attentions: Unit attention conditions to establish.
        aborted: The I_T nexuses whose commands PREEMPT AND ABORT aborts.
    """

    state: ReservationState
    legacy_holder: ITNexus | None
    attentions: tuple[tuple[ITNexus, AdditionalSense], ...] = ()
    aborted: tuple[ITNexus, ...] = ()


Answer = Response | MediumWork | ReservationChange | SanitizeWork
"""The result of `LogicalUnit.begin`."""


class LogicalUnit:
    """One logical unit.

    Args:
        medium: The medium with the blocks.
        identity: The identity of the logical unit.
        state: The reservations at the start.
        limits: The target's ports, and the most registrations that the logical unit keeps.
        luns: Returns the answer of REPORT LUNS: the logical unit numbers as on the wire, 8 bytes each.
        greet: Whether a new I_T nexus gets the unit attention for power on.
        maximum_transfer: The most blocks that one command may transfer.
        read_only: Whether the medium cannot be written.
        sanitizing: A sanitize operation that is already running.
    """

    def __init__(
        self,
        medium: Medium,
        identity: UnitIdentity,
        *,
        state: ReservationState = _NO_RESERVATIONS,
        limits: TargetLimits = _ONE_PORT,
        luns: Callable[[], tuple[bytes, ...]] = lambda: (bytes(8),),
        greet: bool = True,
        maximum_transfer: int = 16384,
        read_only: bool = False,
        sanitizing: SanitizeWork | None = None,
    ) -> None:
        self.identity = identity
        self.geometry = Geometry(medium.size // 512, maximum_transfer=maximum_transfer)
        self._medium = medium
        self._limits = limits
        self._luns = luns
        self._read_only = read_only
        self._mode = ModeParameters()
        self._stopped = False
        self._sanitize = SanitizeState(running=sanitizing)
        self._copies = CopyResults()
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

    @property
    def sanitize(self) -> SanitizeState:
        """The state of the sanitize operation: whether one is running, and whether the last one failed."""
        return self._sanitize

    def execute(self, nexus: ITNexus, command: Command) -> Response:
        """Carry out one command at once. Never raises for bad input or for errors of the medium."""
        answer = self.begin(nexus, command)
        if isinstance(answer, Response):
            return answer
        if isinstance(answer, ReservationChange):
            return self.commit(answer)
        response = answer.run(self._medium)
        if isinstance(answer, SanitizeWork):
            self.sanitized(answer, response)
        return self.present(response) if response.sense else response

    def begin(self, nexus: ITNexus, command: Command) -> Answer:
        """Decide on a command. This only clears a reported unit attention; see also `STATE_COMMANDS`."""
        opcode = command.opcode
        attention = self._attentions.first(nexus)
        if attention is not None and opcode not in _PAST_UNIT_ATTENTIONS:
            if attention not in RESET_CONDITIONS and self._conflicts(nexus, command):
                return _CONFLICT
            self._attentions.take(nexus)
            return self.present(check_condition(SenseKey.UNIT_ATTENTION, attention))
        answer = self._decide(nexus, command)
        return (
            self.present(answer) if self._mode.descriptor_sense and isinstance(answer, Response) else answer
        )

    def present(self, response: Response) -> Response:
        """The response with its sense data in the format that the Control mode page asks for."""
        if not response.sense or not self._by_descriptors:
            return response
        sense = decode_sense(response.sense).encode(descriptor_format=True)
        return Response(response.status, response.data_in, sense)

    def sanitized(self, work: SanitizeWork, response: Response) -> None:
        """Note that a sanitize operation has ended."""
        if response.good:
            self._sanitize = SanitizeState()
        else:
            self._sanitize = SanitizeState(failed=True, forgivable=work.ause)
        self._settle()

    def commit(self, change: ReservationChange) -> Response:
        """Put a change into force. No other change may have been committed since `begin` made this one."""
        self._state = change.state
        self._legacy_holder = change.legacy_holder
        self._settle()
        for nexus, condition in change.attentions:
            self._attentions.establish(nexus, condition)
        return GOOD

    def reset(self) -> None:
        """Carry out a LOGICAL UNIT RESET (SAM-5 6.3.3).

        Persistent reservations stay (SPC-4 5.13.1), reservations by RESERVE end (SPC-2 5.5.1), and every I_T
        nexus gets a unit attention. Mode parameters get their defaults; a sanitize operation continues.
        """
        self._legacy_holder = None
        self._mode = ModeParameters()
        self._stopped = False
        self._copies.clear()
        self._settle()
        self._attentions.reset(AdditionalSense.BUS_DEVICE_RESET_FUNCTION_OCCURRED)

    def nexus_lost(self, nexus: ITNexus) -> None:
        """Do what an I_T nexus loss requires (SAM-5 6.3.4): it is like a reset for one I_T nexus."""
        if self._legacy_holder == nexus:
            self._legacy_holder = None
            self._settle()
        self._copies.lose(nexus)
        self._attentions.lose(nexus)

    def _settle(self) -> None:
        """Compute once what every command must know, such as the standing of each nexus."""
        held = self._state.reservation
        self._standings = {
            each.nexus: self._state.standing(each.nexus)
            for each in (self._state.registrations if held is not None else ())
        }
        self._reserved = held is not None or self._legacy_holder is not None
        self._through = not self._mode.write_cache
        self._by_descriptors = self._mode.descriptor_sense
        self._protected = self._read_only or self._mode.write_protect
        unready = self._stopped or self._sanitize != SanitizeState()
        self._guarded = self._reserved or self._protected or unready

    def _decide(self, nexus: ITNexus, command: Command) -> Answer:
        cdb = command.cdb
        if command.opcode not in OPERATIONS:
            return illegal(AdditionalSense.INVALID_COMMAND_OPERATION_CODE)
        if self._guarded:
            refusal = self._refuse(nexus, cdb)
            if refusal is not None:
                return refusal
        try:
            decoded = decode_cdb(cdb)
        except DecodeError:
            return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        return self._perform(nexus, decoded, command.data_out)

    def _conflicts(self, nexus: ITNexus, command: Command) -> bool:
        """Whether a command ends in RESERVATION CONFLICT."""
        if command.opcode in RESERVATION_COMMANDS:
            return self._decide(nexus, command) is _CONFLICT
        return self._reserved and command.opcode in OPERATIONS and self._refused_by_table(nexus, command.cdb)

    def _refuse(self, nexus: ITNexus, cdb: bytes) -> Response | None:
        """The refusal of a command because of the logical unit's state; None when the state allows it."""
        opcode = cdb[0]
        if self._reserved and self._refused_by_table(nexus, cdb):
            return _CONFLICT
        condition = self._condition()
        if condition is not None and self._waits_for_ready(opcode):
            return Response(Status.CHECK_CONDITION, sense=condition.encode())
        if self._protected and opcode in WRITING:
            return check_condition(SenseKey.DATA_PROTECT, AdditionalSense.WRITE_PROTECTED)
        return None

    def _waits_for_ready(self, opcode: int) -> bool:
        if self._sanitize.running is not None:
            return opcode not in _PAST_UNIT_ATTENTIONS
        if self._sanitize.failed and opcode == Op.SANITIZE:
            return False
        return opcode in READY

    def _condition(self) -> Sense | None:
        """The reason why the medium is not ready, or None (SBC-3 4.11.4, 4.20)."""
        running = self._sanitize.running
        if running is not None:
            additional = AdditionalSense.LOGICAL_UNIT_NOT_READY_SANITIZE_IN_PROGRESS
            return Sense(SenseKey.NOT_READY, additional, key_specific=running.progress)
        if self._sanitize.failed:
            return Sense(SenseKey.MEDIUM_ERROR, AdditionalSense.SANITIZE_COMMAND_FAILED)
        if self._stopped:
            additional = AdditionalSense.LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED
            return Sense(SenseKey.NOT_READY, additional)
        return None

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
        through = self._through
        match cdb:
            case Read():
                return block.read(cdb, self.geometry)
            case Write():
                return block.write(cdb, data_out, self.geometry, through)
            case SynchronizeCache():
                return block.synchronize_cache(cdb, self.geometry)
            case TestUnitReady():
                return GOOD
            case PersistentReserveIn():
                data = parameter_data(cdb, self._state, self._limits)
                return data_in(data, cdb.allocation_length)
            case PersistentReserveOut():
                return self._persistent_reserve_out(nexus, cdb, data_out)
            case Reserve() | Release():
                return self._reserve_or_release(nexus, cdb)
            case Verify():
                return block.verify(cdb, data_out, self.geometry)
            case PreFetch():
                return block.pre_fetch(cdb, self.geometry)
            case CompareAndWrite():
                return combined.compare_and_write(cdb, data_out, self.geometry, through)
            case OrWrite():
                return combined.or_write(cdb, data_out, self.geometry, through)
            case WriteAndVerify():
                return combined.write_and_verify(cdb, data_out, self.geometry)
            case WriteSame():
                return provisioning.write_same(cdb, data_out, self.geometry, through)
            case Unmap():
                return provisioning.unmap(cdb, data_out, self.geometry, through)
            case GetLbaStatus():
                return provisioning.get_lba_status(cdb, self.geometry)
            case ExtendedCopy():
                return self._extended_copy(nexus, cdb, data_out, through)
            case Sanitize():
                return self._begin_sanitize(cdb, data_out)
            case ModeSelect():
                return self._mode_select(nexus, cdb, data_out)
            case StartStopUnit():
                return self._start_stop(cdb)
        return self._tell(nexus, cdb)

    def _tell(self, nexus: ITNexus, cdb: Cdb) -> Response:
        """Answer the commands that ask the logical unit about itself."""
        match cdb:
            case Inquiry():
                return self._inquiry(nexus, cdb)
            case RequestSense():
                return self._request_sense(nexus, cdb)
            case ReadCapacity10():
                return Response(Status.GOOD, self._capacity().encode_10())
            case ReadCapacity16():
                return data_in(self._capacity().encode_16(), cdb.allocation_length)
            case ModeSense6() | ModeSense10():
                data = mode_sense(cdb, self.geometry, self._mode, self._read_only)
                return data_in(data, cdb.allocation_length)
            case ReportLuns():
                return self._report_luns(cdb)
            case ReceiveCopyResults():
                return data_in(self._copies.receive(nexus, cdb), cdb.allocation_length)
            case ReportSupportedOperationCodes():
                return data_in(report_supported(cdb), cdb.allocation_length)
            case ReportSupportedTaskManagementFunctions():
                return data_in(TASK_MANAGEMENT.encode(cdb.extended), cdb.allocation_length)
            case ReadDefectData():
                return read_defect_data(cdb)
            case SendDiagnostic():
                return send_diagnostic(cdb)
            case PreventAllowMediumRemoval():
                # The medium cannot be removed, so there is nothing to prevent (SPC-4 6.14).
                return GOOD if cdb.prevent <= 1 else illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        # The operation code is known, and the service action is not.
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)

    def _mode_select(self, nexus: ITNexus, cdb: ModeSelect, data_out: bytes) -> Answer:
        """MODE SELECT. A change gives the other nexuses a unit attention (SPC-4 6.11).

        Before the write cache is switched off, its content is written to the medium (SBC-3 6.5.5).
        """
        before, after = self._mode, mode_select(cdb, data_out, self.geometry, self._mode)
        if isinstance(after, AdditionalSense):
            return illegal(after)
        if after == before:
            return GOOD
        self._mode = after
        self._settle()
        self._attentions.establish_for_others(nexus, AdditionalSense.MODE_PARAMETERS_CHANGED)
        return Flush() if before.write_cache and not after.write_cache else GOOD

    def _start_stop(self, cdb: StartStopUnit) -> Answer:
        """START STOP UNIT (SBC-3 5.22). Only stopping has an effect; the medium cannot be ejected."""
        ejects = cdb.load_or_eject and cdb.power_condition == _START_VALID
        if ejects or cdb.power_condition not in _POWER_CONDITIONS:
            return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        self._stopped = cdb.power_condition == _START_VALID and not cdb.start
        self._settle()
        return Flush() if self._stopped and not cdb.no_flush else GOOD

    def _begin_sanitize(self, cdb: Sanitize, data_out: bytes) -> Answer:
        decided = sanitize(cdb, data_out, self.geometry, self._sanitize)
        if isinstance(decided, Response):
            return decided
        state = decided if isinstance(decided, SanitizeState) else SanitizeState(running=decided)
        self._sanitize = state
        self._settle()
        return GOOD if isinstance(decided, SanitizeState) else decided

    def _extended_copy(self, nexus: ITNexus, cdb: ExtendedCopy, data_out: bytes, through: bool) -> Answer:
        designators = self.identity.designators(nexus.target_port)
        work, kept_as = extended_copy(cdb, data_out, self.geometry, designators, through)
        if isinstance(work, CopyWork) and kept_as is not None:
            self._copies.keep(nexus, kept_as, work)
        return work

    def _persistent_reserve_out(self, nexus: ITNexus, cdb: PersistentReserveOut, data_out: bytes) -> Answer:
        outcome = carry_out(cdb, data_out, self._state, nexus, self._limits)
        if outcome.conflict:
            return _CONFLICT
        if outcome.problem is not None:
            return illegal(outcome.problem)
        return ReservationChange(outcome.state, self._legacy_holder, outcome.attentions, outcome.aborted)

    def _reserve_or_release(self, nexus: ITNexus, cdb: Reserve | Release) -> Answer:
        if cdb.third_party or cdb.extent:
            return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        rule = legacy.reserve if isinstance(cdb, Reserve) else legacy.release
        outcome = rule(self._state, self._legacy_holder, nexus)
        return _CONFLICT if outcome.conflict else ReservationChange(self._state, outcome.holder)

    def _request_sense(self, nexus: ITNexus, cdb: RequestSense) -> Response:
        """REQUEST SENSE: a pending unit attention, which this clears, or why the medium is not ready
        (SPC-4 6.39)."""
        attention = self._attentions.take(nexus)
        if attention is not None:
            sense = Sense(SenseKey.UNIT_ATTENTION, attention)
        else:
            sense = self._condition() or Sense(SenseKey.NO_SENSE)
        return data_in(sense.encode(cdb.descriptor_format), cdb.allocation_length)

    def _inquiry(self, nexus: ITNexus, cdb: Inquiry) -> Response:
        if cdb.page_code is None:
            data = self.identity.standard(len(self._limits.ports))
            return data_in(data, cdb.allocation_length)
        page = self.identity.vital_product_data(cdb.page_code, nexus.target_port, self.geometry)
        if page is None:
            return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        return data_in(page, cdb.allocation_length)

    def _capacity(self) -> Capacity:
        return Capacity(self.geometry.blocks, self.geometry.block_length, thin=True, reads_zeros=True)

    def _report_luns(self, cdb: ReportLuns) -> Response:
        """REPORT LUNS (SPC-4 6.33). This answers when no target answers for all its logical units."""
        if cdb.select_report not in (_ALL_LUNS, _WELL_KNOWN_LUNS, _EVERY_LUN) or cdb.allocation_length < 16:
            return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
        luns = () if cdb.select_report == _WELL_KNOWN_LUNS else self._luns()
        return data_in(LunList(luns).encode(), cdb.allocation_length)
