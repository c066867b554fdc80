"""The messages of handovers that come on a stream from another agent, with the rules of the API's routes."""

from __future__ import annotations

import msgspec
import structlog

from holdover.agent.guests.loop_throttle import request_throttle
from holdover.agent.handover.answers import HandoverProblem
from holdover.agent.host import Host
from holdover.api.access import refusal
from holdover.api.documents import PeerMessage, Problem
from holdover.api.message_frames import FrameKind

log = structlog.get_logger()

_ROUTE = "/peer/handover"
"""The route for the same message as a request."""


class Messages:
    """Handles the messages that come to a host on streams."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def refusal_of(self, name: str) -> str | None:
        """Why a name may send no messages; None if it may."""
        return refusal(self._host.config, name, "POST", _ROUTE)

    async def serve(self, body: bytes, sender: str) -> tuple[FrameKind, bytes]:
        """Handle one message, in turn with the requests to the API."""
        await request_throttle().wait()
        try:
            message = msgspec.json.decode(body, type=PeerMessage)
            return FrameKind.ANSWER, msgspec.json.encode(await self._host.handovers.receive(message, sender))
        except msgspec.DecodeError as error:
            problem = self._problem(f"the message is not valid: {error}")
        except HandoverProblem as error:
            problem = error.problem
        except Exception as error:
            log.error("A message of a peer met an unexpected error.", peer=sender, exc_info=error)
            problem = self._problem(f"{type(error).__name__}: {error} (see this agent's log)")
        return FrameKind.PROBLEM, msgspec.json.encode(problem)

    def _problem(self, detail: str) -> Problem:
        return Problem(detail=detail, host=self._host.config.name)
