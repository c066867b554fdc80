"""One I_T nexus to a LUN that sessions of an export share: RESERVE, and the unit attentions of resets."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

import structlog

from holdover.agent.guests.step_runner import OneByOne, run_steps
from holdover.lun.shared_reserve import RESERVE, RESERVE_AND_RELEASE, SharedReserve
from holdover.paths.submitted import can_forward, can_relay
from holdover.reservations.steps import StepFailed, Steps, insist
from holdover.scsi.cdbs.cdb import Release
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, Path, PathError
from holdover.scsi.reservation.reservation_in import ReadKeys
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import describe_response, is_unit_attention
from holdover.scsi.status import Status

log = structlog.get_logger()

_FREE_SECONDS = 5.0
"""The seconds that the LUN has to answer RELEASE."""

_AGAIN_SECONDS = 1.0
"""The seconds from one try to the next to free the LUN after a session has ended."""

_ASK_SECONDS = 5.0
"""The seconds that the LUN has to answer READ KEYS."""

_RELEASE = Command(Release(6).encode())
_READ_KEYS = in_command(InServiceAction.READ_KEYS)
_NEVER_ATTENTION = frozenset({OperationCode.INQUIRY, OperationCode.REPORT_LUNS, OperationCode.REQUEST_SENSE})


class LunNexus:
    """A path, which is one I_T nexus, as the sessions of an export share it.

    Attributes:
        path: The path.
        forwards: The path, if it can send a command without waiting.
        relays: The path, if plain commands can be relayed to it.
        reserve: Which of the sessions has reserved the LUN.
        attentions: Unit attentions that the sessions have not got yet; each goes to one session.
        sessions: The sessions by their I_T nexuses at the export; only some owners maintain it.
    """

    def __init__(self, path: Path, observe: Callable[[Command, Response], None] | None = None) -> None:
        """``observe`` is called with every response to the agent's own commands. Without it, a unit attention
        in such a response is kept for the sessions."""
        self.path = path
        self.forwards = path if can_forward(path) else None
        self.relays = path if can_relay(path) else None
        self.reserve = SharedReserve()
        self.attentions: deque[Response] = deque()
        self.sessions: set[ITNexus] = set()
        self._own = OneByOne(path, observe or self._observe)
        self._freeing: asyncio.Task[None] | None = None

    @property
    def watched(self) -> bool:
        """Whether every command must go through `execute`, and not only those of `RESERVE_AND_RELEASE`."""
        return self.reserve.holder is not None or bool(self.attentions)

    async def execute(self, nexus: ITNexus, command: Command, is_registered: Callable[[], bool]) -> Response:
        """Carry out a command of a session.

        ``is_registered``: whether the path's nexus is registered, as far as the agent knows; asked when the
        command has ended.

        Raises:
            PathError, AnswerLost: As the path does.
        """
        if self.attentions and command.opcode not in _NEVER_ATTENTION:
            return self.attentions.popleft()
        answer = self.reserve.answer(nexus, command)
        if answer is not None:
            return answer
        if command.opcode not in RESERVE_AND_RELEASE:
            return await self.path.execute(command)
        fresh = self.reserve.begin(nexus, command)
        response: Response | None = None
        try:
            response = await self.path.execute(command)
        except AnswerLost:
            raise
        except PathError:
            self.reserve.end(nexus, command, None, fresh=fresh, registered=is_registered())
            raise
        registered = response.good and command.opcode in RESERVE and is_registered()
        registered = registered and await self._is_anybody_registered()
        self.reserve.end(nexus, command, response, fresh=fresh, registered=registered)
        return response

    async def _is_anybody_registered(self) -> bool:
        """Whether RESERVE, which has ended in GOOD, has reserved nothing, because somebody is registered.

        The LUN is asked: the unit attention that says that the registration is gone may be lost.
        """
        try:
            response = await run_steps(self._own, insist(_READ_KEYS, "READ KEYS"), _ASK_SECONDS)
            return response.good and bool(ReadKeys.decode(response.data_in).keys)
        except (PathError, StepFailed, DecodeError):
            return False

    def owe(self, attention: Response) -> None:
        """Report a unit attention to the sessions in place of their next command."""
        if attention not in self.attentions:
            self.attentions.append(attention)

    async def reset(self) -> None:
        """Free what a session has reserved.

        Raises:
            PathError, StepFailed: The LUN is not free yet. It is tried again in the background.
        """
        if self.reserve.holder is None:
            return
        is_first = not self.reserve.abandoned
        # No RESERVE may pass until the LUN is free: nobody would know which came first.
        self.reserve.abandoned = True
        try:
            await self._free()
        except (PathError, StepFailed):
            if is_first:
                self._freeing = asyncio.ensure_future(self._free_until_free())
            raise

    async def lose(self, nexus: ITNexus) -> None:
        """Free what a session that has ended had reserved; try until the LUN answers."""
        if not self.reserve.lose(nexus):
            return
        try:
            await self._free()
        except (PathError, StepFailed) as error:
            log.warning(
                "A session with a reservation has ended, and the LUN is not free yet; the agent tries again.",
                path=self.path.name,
                reason=str(error),
            )
            self._freeing = asyncio.ensure_future(self._free_until_free())

    async def close(self) -> None:
        """Close the path; that also frees the LUN."""
        if self._freeing is not None:
            self._freeing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._freeing
        await self._own.close()
        await self.path.close()

    async def _free(self) -> None:
        await run_steps(self._own, _release(), _FREE_SECONDS)
        self.reserve.freed()

    async def _free_until_free(self) -> None:
        while self.reserve.abandoned:
            await asyncio.sleep(_AGAIN_SECONDS)
            with contextlib.suppress(PathError, StepFailed):
                await self._free()

    def _observe(self, _: Command, response: Response) -> None:
        if is_unit_attention(response):
            self.owe(response)


def _release() -> Steps[None]:
    """Send RELEASE until the LUN answers that the nexus has no such reservation any more."""
    response = yield from insist(_RELEASE, "RELEASE")
    # RESERVATION CONFLICT means that somebody is registered; then no RESERVE can exist (SPC-2 5.5.1).
    if not response.good and response.status is not Status.RESERVATION_CONFLICT:
        raise StepFailed("RELEASE", f"the LUN answers {describe_response(response)}")
