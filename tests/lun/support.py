"""What the tests of the logical unit share: I_T nexuses, a medium in memory, commands in one line."""

from __future__ import annotations

import errno

from holdover.lun.commands.inquiry import UnitIdentity
from holdover.lun.logical_unit import LogicalUnit
from holdover.lun.reservations import ReservationState, TargetLimits
from holdover.scsi.cdbs.cdb import ModeSelect, PersistentReserveIn
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, decode_sense
from holdover.scsi.status import Status

ISID = bytes.fromhex("80c0ffee0001")


def initiator(name: str) -> IscsiTransportID:
    """The initiator port of a host of this name."""
    return IscsiTransportID(f"iqn.2026-01.test:{name}", ISID)


A, B, C, D = (ITNexus(initiator(name)) for name in "abcd")
A2 = ITNexus(initiator("a"), 2)
TWO_PORTS = TargetLimits(ports=(1, 2))

READ_10 = Command(bytes.fromhex("28000000000000000100"), data_in_length=512)
WRITE_10 = Command(bytes.fromhex("2a000000000000000100"), b"w" * 512)
TEST_UNIT_READY = Command(bytes(6))


class MemoryMedium:
    """A medium that a test can look into and break."""

    def __init__(self, size: int = 64 * 512) -> None:
        self.data = bytearray(size)
        self.flushed = bytes(size)
        self.failure: OSError | None = None
        self.unmapped: list[tuple[int, int]] = []
        self.prefetched: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return len(self.data)

    def read(self, offset: int, length: int) -> bytes:
        self._fail()
        if offset < 0 or offset + length > len(self.data):
            raise AssertionError(f"read of {length} at {offset} leaves the medium")
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        self._fail()
        if offset < 0 or offset + len(data) > len(self.data):
            raise AssertionError(f"write of {len(data)} at {offset} leaves the medium")
        self.data[offset : offset + len(data)] = data

    def flush(self) -> None:
        self._fail()
        self.flushed = bytes(self.data)

    def unmap(self, offset: int, length: int) -> None:
        self.write(offset, bytes(length))
        self.unmapped.append((offset, length))

    def extent(self, offset: int) -> tuple[bool, int]:
        """Storage there is for whatever is not zeros, in units of 4096 bytes."""
        self._fail()
        units = [any(self.data[at : at + 4096]) for at in range(0, len(self.data), 4096)]
        first = offset // 4096
        ends = (at for at in range(first, len(units)) if units[at] != units[first])
        return units[first], min(next(ends, len(units)) * 4096, len(self.data))

    def prefetch(self, offset: int, length: int) -> None:
        self.prefetched.append((offset, length))

    def _fail(self) -> None:
        if self.failure is not None:
            raise self.failure


def disk_full() -> OSError:
    """What a full file system says."""
    return OSError(errno.ENOSPC, "No space left on device")


def make_unit(
    state: ReservationState | None = None,
    *,
    greet: bool = False,
    limits: TargetLimits | None = None,
    medium: MemoryMedium | None = None,
    read_only: bool = False,
) -> LogicalUnit:
    """A logical unit of 64 blocks whose nexuses owe it nothing."""
    return LogicalUnit(
        medium or MemoryMedium(),
        UnitIdentity("0123456789abcdef"),
        state=state or ReservationState(),
        limits=limits or TargetLimits(),
        greet=greet,
        read_only=read_only,
    )


def out(
    unit: LogicalUnit,
    nexus: ITNexus,
    service_action: OutServiceAction,
    key: int = 0,
    service_action_key: int = 0,
    type: ReservationType | None = None,
    aptpl: bool = False,
) -> Response:
    """Send a PERSISTENT RESERVE OUT."""
    return unit.execute(nexus, out_command(service_action, key, service_action_key, type=type, aptpl=aptpl))


def mode_select(
    *, write_cache: bool = True, write_protect: bool = False, descriptor_sense: bool = False
) -> Command:
    """A MODE SELECT(6) that sets all that can be changed."""
    caching = bytes([0x08, 0x12, 0x04 * write_cache]) + bytes(17)
    control = bytes([0x0A, 0x0A, 0x04 * descriptor_sense, 0x10, 0x08 * write_protect, 0x40]) + bytes(6)
    data = bytes(4) + caching + control
    return Command(ModeSelect(len(data), 6).encode(), data)


def sense_of(response: Response) -> tuple[SenseKey, int]:
    """Sense key and additional sense code of a CHECK CONDITION."""
    assert response.status is Status.CHECK_CONDITION, response
    sense = decode_sense(response.sense)
    return sense.key, sense.additional


def illegal(additional: AdditionalSense) -> tuple[SenseKey, int]:
    """What `sense_of` gives for an ILLEGAL REQUEST."""
    return SenseKey.ILLEGAL_REQUEST, additional


def attention(additional: AdditionalSense) -> tuple[SenseKey, int]:
    """What `sense_of` gives for a UNIT ATTENTION."""
    return SenseKey.UNIT_ATTENTION, additional


LACKING = check_condition(SenseKey.ILLEGAL_REQUEST, AdditionalSense.INVALID_FIELD_IN_CDB)
"""The answer of a LUN that does not have a service action."""


def is_read_full_status(command: Command) -> bool:
    """Whether a command is READ FULL STATUS, which not every LUN has."""
    return (
        command.opcode == OperationCode.PERSISTENT_RESERVE_IN
        and PersistentReserveIn.decode(command.cdb).service_action == InServiceAction.READ_FULL_STATUS
    )
