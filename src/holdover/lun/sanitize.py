"""SANITIZE: checked here, carried out in the background by whoever has the medium (SBC-3 4.11, 5.21).

While it runs the logical unit answers INQUIRY, REPORT LUNS and REQUEST SENSE alone. Nothing stops it:
neither the end of its command nor a reset. If it fails, that is all that the logical unit has to say
until another SANITIZE ends well, or EXIT FAILURE MODE is allowed to forgive it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from holdover.lun.answers import GOOD, illegal, write_failure
from holdover.lun.block import Geometry
from holdover.lun.medium import Medium
from holdover.lun.work import Span
from holdover.scsi.block import OverwriteParameters
from holdover.scsi.cdb import Sanitize
from holdover.scsi.command import Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.opcodes import SanitizeServiceAction
from holdover.scsi.sense import AdditionalSense

__all__ = ["SanitizeState", "SanitizeWork", "sanitize"]

_CHUNK = 1 << 20
_WHOLE = 0x10000
"""A progress indication is so many parts of a whole."""


@dataclass(slots=True)
class SanitizeWork:
    """One sanitize operation: every byte of the medium becomes something else, on stable storage.

    Attributes:
        size: Bytes of the medium.
        pattern: What overwrites every block, one block long; None erases.
        passes: How often.
        invert: Every second pass writes the pattern inverted; the last one does not.
        immed: The command's status does not wait for it.
        ause: EXIT FAILURE MODE may forgive its failure.
        progress: How far it is, in parts of 65536.
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
        """It belongs in a thread."""
        return True

    @property
    def exclusive(self) -> bool:
        """It waits for what was begun before it."""
        return True

    @property
    def span(self) -> Span:
        """Everything."""
        return 0, self.size

    def run(self, medium: Medium) -> Response:
        """GOOD, or why not."""
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


@dataclass(frozen=True, slots=True)
class SanitizeState:
    """What the logical unit remembers of a sanitize operation.

    Attributes:
        running: The one under way, or None.
        failed: The last one failed.
        forgivable: EXIT FAILURE MODE ends that.
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
    """OVERWRITE: the parameter list is a header and a pattern of at most one block, which fills a block by
    repetition (5.21.2.2)."""
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
