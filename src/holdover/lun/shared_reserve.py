"""RESERVE and RELEASE of SPC-2 when several sessions of an export share one I_T nexus to the LUN, pure.

The LUN sees one nexus: it keeps other hosts out, but cannot distinguish these sessions. So this module
records which session has reserved. The end of that session, or a reset, frees the LUN (SPC-2 5.5.1, SAM-5
6.3). Until then the other sessions get RESERVATION CONFLICT, as on any target.
"""

from __future__ import annotations

from holdover.lun.access import allowed_beside_reserve
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import is_undone
from holdover.scsi.status import Status

RESERVE = frozenset({OperationCode.RESERVE_6, OperationCode.RESERVE_10})
"""Its two forms."""

_RELEASE = frozenset({OperationCode.RELEASE_6, OperationCode.RELEASE_10})
RESERVE_AND_RELEASE = RESERVE | _RELEASE
"""The commands that `SharedReserve` must see."""

_GOOD = Response(Status.GOOD)
_CONFLICT = Response(Status.RESERVATION_CONFLICT)


class SharedReserve:
    """The session that holds the RESERVE which the shared nexus has, or may have, at the LUN.

    Attributes:
        holder: The I_T nexus of that session at the export; None when no session has reserved.
        abandoned: Whether the session has ended, or the LUN was reset, and the LUN must still be freed.
    """

    def __init__(self) -> None:
        self.holder: ITNexus | None = None
        self.abandoned = False

    def answer(self, nexus: ITNexus, command: Command) -> Response | None:
        """The answer to a command while another session holds a RESERVE; None: send it to the LUN."""
        if self.holder is None or (self.holder == nexus and not self.abandoned):
            return None
        if command.opcode in _RELEASE:
            return _GOOD  # this session did not reserve, so nothing changes (SPC-2 7.16)
        return None if allowed_beside_reserve(command.cdb) else _CONFLICT

    def begin(self, nexus: ITNexus, command: Command) -> bool:
        """Note that a command will be sent. A RESERVE counts from now on, because its answer may be lost.

        Returns:
            Whether no session had reserved before.
        """
        fresh = self.holder is None
        if command.opcode in RESERVE:
            self.holder = nexus
        return fresh

    def end(
        self, nexus: ITNexus, command: Command, response: Response | None, *, fresh: bool, registered: bool
    ) -> None:
        """Note how a command has ended. Do not call this when the answer of the command was lost.

        Args:
            nexus, command: As in `begin`.
            response: The answer of the command; None when the command was not sent.
            fresh: The value that `begin` returned.
            registered: Whether the nexus is registered; then RESERVE ends in GOOD and reserves nothing (CRH,
                SPC-4 5.13.3).
        """
        good = response is not None and response.good
        conflict = response is not None and response.status is Status.RESERVATION_CONFLICT
        if command.opcode in _RELEASE:
            gone = good
        elif command.opcode in RESERVE and good:
            self.holder, gone = nexus, registered
        else:
            # After ABORTED COMMAND, for example, the LUN may be reserved.
            is_undone_now = response is None or is_undone(response)
            gone = command.opcode in RESERVE and (conflict or (fresh and is_undone_now))
        if gone and self.holder == nexus and not self.abandoned:
            self.holder = None

    def lose(self, nexus: ITNexus) -> bool:
        """Note that a session has ended. Returns whether the LUN must be freed now."""
        if self.holder != nexus or self.abandoned:
            return False
        self.abandoned = True
        return True

    def freed(self) -> None:
        """Note that the LUN is free of the reservation."""
        self.holder = None
        self.abandoned = False
