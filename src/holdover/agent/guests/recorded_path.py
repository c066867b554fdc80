"""A path that puts every PERSISTENT RESERVE OUT into the history."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial

from holdover.history.entry import CAUSE, Cause, Entry
from holdover.history.history import History
from holdover.paths.submitted import Submitted, can_submit
from holdover.scsi.cdbs.cdb import PersistentReserveOut
from holdover.scsi.cdbs.opcodes import OperationCode, OutServiceAction
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.path import Path, PathError
from holdover.scsi.reservation.key import key_text
from holdover.scsi.reservation.reservation_out import ParameterList
from holdover.scsi.sense import describe_response

_WITH_TYPE = frozenset(
    {
        OutServiceAction.RESERVE,
        OutServiceAction.RELEASE,
        OutServiceAction.PREEMPT,
        OutServiceAction.PREEMPT_AND_ABORT,
    }
)


class RecordedPath:
    """A path; the owner of the path closes it."""

    def __init__(
        self, path: Path, history: History, guest: str, lun: Callable[[], str], cause: Cause | None = None
    ) -> None:
        """``lun`` names the LUN. ``cause`` is behind all commands; None: `CAUSE` of the task that sends."""
        self._path = path
        self._submits = path if can_submit(path) else None
        self._history = history
        self._guest = guest
        self._lun = lun
        self._cause = cause

    @property
    def name(self) -> str:
        """The path's name."""
        return self._path.name

    @property
    def nexuses(self) -> int:
        """How many I_T nexuses the path has."""
        return self._path.nexuses

    async def execute(self, command: Command) -> Response:
        """As the path does.

        Raises:
            PathError, AnswerLost: As the path does.
        """
        if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
            return await self._path.execute(command)
        try:
            response = await self._path.execute(command)
        except PathError as error:
            self._add(command, error)
            raise
        self._add(command, response)
        return response

    def submit(self, command: Command) -> Submitted | None:
        """As the path does; None if the path cannot."""
        submitted = None if self._submits is None else self._submits.submit(command)
        if submitted is not None and command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            submitted.ended.add_done_callback(lambda _: self._add_ended(command, submitted))
        return submitted

    def _add_ended(self, command: Command, submitted: Submitted) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            try:
                self._add(command, submitted.result())
            except PathError as error:
                self._add(command, error)

    async def close(self) -> None:
        """Nothing: the path is another's."""

    def _add(self, command: Command, ended: Response | PathError) -> None:
        at, lun, cause = self._history.now(), self._lun(), self._cause or CAUSE.get()
        # A guest may stand still: the history's own thread makes the entry.
        self._history.add_later(partial(_entry, at, self._guest, lun, cause, command, ended))


def _entry(
    at: float, guest: str, lun: str, cause: Cause, command: Command, ended: Response | PathError
) -> Entry | None:
    """The entry of a command that has ended; None if it changes nothing."""
    try:
        cdb = PersistentReserveOut.decode(command.cdb)
        action = OutServiceAction(cdb.service_action)
        keys = ParameterList.decode(command.data_out)
    except (DecodeError, ValueError):
        return None  # the LUN changes nothing by a command that it cannot read
    if keys.key == keys.service_action_key and action is OutServiceAction.REGISTER:
        return None  # the agent asks in this way which registration it has
    return Entry(
        at=at,
        guest=guest,
        what=action.name.replace("_", " "),
        by=cause.by,
        lun=lun,
        handover_id=cause.handover_id,
        key=key_text(keys.key),
        new_key=key_text(keys.service_action_key),
        type=cdb.type if action in _WITH_TYPE else None,
        answer=f"no answer: {ended.problem}" if isinstance(ended, PathError) else describe_response(ended),
    )
