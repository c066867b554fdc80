"""What comes on a stream from another agent, with the rules of the API's routes for peers."""

from __future__ import annotations

import msgspec
import structlog

from holdover.agent.guests.loop_throttle import request_throttle
from holdover.agent.handover.answers import HandoverProblem
from holdover.agent.host import Host
from holdover.agent.migration.migrations import MigrationProblem
from holdover.api.access import refusal
from holdover.api.documents import PeerMessage, Problem
from holdover.api.message_frames import Frame, FrameKind
from holdover.api.migration_documents import QemuAction, QemuAnswer, QemuRequest
from holdover.handover.protocol import Answer

log = structlog.get_logger()

_ROUTE = "/peer/handover"
"""The route for the same message as a request. All routes for peers have one rule."""


class Messages:
    """Handles the messages that come to a host on streams."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def refusal_of(self, name: str) -> str | None:
        """Why a name may send no messages; None if it may."""
        return refusal(self._host.config, name, "POST", _ROUTE)

    async def serve(self, frame: Frame, sender: str) -> tuple[FrameKind, bytes]:
        """Handle one frame, in turn with the requests to the API."""
        await request_throttle().wait()
        try:
            return FrameKind.ANSWER, msgspec.json.encode(await self._answer(frame, sender))
        except msgspec.DecodeError as error:
            problem = self._problem(f"the message is not valid: {error}")
        except (HandoverProblem, MigrationProblem) as error:
            problem = error.problem
        except Exception as error:
            log.error("A message of a peer met an unexpected error.", peer=sender, exc_info=error)
            problem = self._problem(f"{type(error).__name__}: {error} (see this agent's log)")
        return FrameKind.PROBLEM, msgspec.json.encode(problem)

    async def _answer(self, frame: Frame, sender: str) -> Answer | QemuAnswer:
        if frame.kind is FrameKind.MESSAGE:
            message = msgspec.json.decode(frame.body, type=PeerMessage)
            return await self._host.handovers.receive(message, sender)
        request = msgspec.json.decode(frame.body, type=QemuRequest)
        if request.action is not QemuAction.RUN:
            text = (
                f"on a stream a guest's QEMU is asked to {QemuAction.RUN.value}, and not to "
                f"{request.action.value}"
            )
            raise MigrationProblem(self._problem(text))
        return await self._host.migrations.receive(request, sender, "")

    def _problem(self, detail: str) -> Problem:
        return Problem(detail=detail, host=self._host.config.name)
