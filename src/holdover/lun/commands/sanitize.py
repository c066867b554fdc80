"""SANITIZE (SBC-3 4.11, 5.21): this module checks it; the owner of the medium does it in the background.

While a sanitize operation runs, the logical unit answers only INQUIRY, REPORT LUNS and REQUEST SENSE. Nothing
stops the operation: neither the end of its command nor a reset. If the operation fails, the logical unit
reports only this failure, until another SANITIZE ends well, or an allowed EXIT FAILURE MODE ends the failure.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from holdover.lun.commands.answers import GOOD, illegal, write_failure
from holdover.lun.commands.block import Geometry
from holdover.lun.commands.work import Span
from holdover.lun.medium import Medium
from holdover.scsi.block import OverwriteParameters
from holdover.scsi.cdbs.cdb import Sanitize
from holdover.scsi.cdbs.opcodes import SanitizeServiceAction
from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.sense import AdditionalSense

_CHUNK = 1 << 20
_WHOLE = 0x10000
"""A progress indication counts parts of this whole."""


@dataclass(slots=True)
class SanitizeWork:
    """One sanitize operation: every byte of the medium becomes something else, on stable storage.

    Attributes:
        size: The bytes of the medium.
        pattern: The data, one block long, that overwrite every block; None erases.
        passes: The number of passes over the medium.
        invert: Every second pass writes the inverted pattern; the last pass does not.
        immed: The command's status does not wait for the operation.
        ause: EXIT FAILURE MODE may end the failure of the operation.
        progress: The progress of the operation, in parts of 65536.
    """

    size: int
    pattern: bytes | None = None
    passes: int = 1
    invert: bool = False
    immed: bool = False
    ause: bool = False
    progress: int = field(default=0, compare=False)

    @property
    def slow(self) -> bool:
        """True: the work belongs in a thread."""
        return True

    @property
    def exclusive(self) -> bool:
        """True: the operation waits for all earlier work."""
        return True

    @property
    def span(self) -> Span:
        """The whole medium."""
        return 0, self.size

    def run(self, medium: Medium) -> Response:
        """GOOD, or the reason why the work failed."""
        try:
            if self.pattern is None:
                medium.unmap(0, self.size)
            else:
                self._overwrite(medium, self.pattern)
            medium.flush()
        except OSError as error:
            return write_failure(error)
        return GOOD

    def _overwrite(self, medium: Medium, pattern: bytes) -> None:
        for number in range(self.passes):
            inverted = self.invert and (self.passes - number) % 2 == 0
            block = bytes(each ^ 0xFF for each in pattern) if inverted else pattern
            piece = block * (_CHUNK // len(block))
            for at in range(0, self.size, len(piece)):
                medium.write(at, piece[: self.size - at])
                done = number * self.size + at
                self.progress = _WHOLE * done // (self.passes * self.size)


class SanitizeState(msgspec.Struct, frozen=True, gc=False):
    """The state of the logical unit's sanitize operation.

    Attributes:
        running: The running operation, or None.
        failed: Whether the last operation failed.
        forgivable: Whether EXIT FAILURE MODE may end this failure.
    """

    running: SanitizeWork | None = None
    failed: bool = False
    forgivable: bool = False


def sanitize(
    cdb: Sanitize, data_out: bytes, geometry: Geometry, state: SanitizeState
) -> Response | SanitizeWork | SanitizeState:
    """A refusal, an operation to begin, or the state after EXIT FAILURE MODE."""
    size = geometry.blocks * geometry.block_length
    erases = (SanitizeServiceAction.BLOCK_ERASE, SanitizeServiceAction.CRYPTOGRAPHIC_ERASE)
    if cdb.service_action == SanitizeServiceAction.OVERWRITE:
        return _overwrite(cdb, data_out, geometry, size)
    if cdb.service_action not in (*erases, SanitizeServiceAction.EXIT_FAILURE_MODE):
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    if cdb.parameter_list_length:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    if cdb.service_action in erases:
        return SanitizeWork(size, immed=cdb.immed, ause=cdb.ause)
    if state.failed and not state.forgivable:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    return SanitizeState()


def _overwrite(cdb: Sanitize, data_out: bytes, geometry: Geometry, size: int) -> Response | SanitizeWork:
    """OVERWRITE: the parameter list has a header and a pattern of at most one block (5.21.2.2).

    The pattern is repeated until it fills a block.
    """
    block = geometry.block_length
    if not 4 < cdb.parameter_list_length < block + 5:
        return illegal(AdditionalSense.INVALID_FIELD_IN_CDB)
    if len(data_out) < cdb.parameter_list_length:
        return illegal(AdditionalSense.PARAMETER_LIST_LENGTH_ERROR)
    try:
        parameters = OverwriteParameters.decode(data_out[: cdb.parameter_list_length])
    except DecodeError:
        return illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    pattern = parameters.pattern
    if not parameters.count or not pattern or parameters.test:
        return illegal(AdditionalSense.INVALID_FIELD_IN_PARAMETER_LIST)
    filled = (pattern * (block // len(pattern) + 1))[:block]
    return SanitizeWork(size, filled, parameters.count, parameters.invert, cdb.immed, cdb.ause)
