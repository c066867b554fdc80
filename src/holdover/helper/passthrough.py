"""A helper that looks at nothing: each command goes to its descriptor by SG_IO, as it came."""

from __future__ import annotations

import structlog

from holdover.helper.server import Peer
from holdover.paths.path import PathError
from holdover.paths.sgio import SgIo
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, describe_response

__all__ = ["Passthrough"]

log = structlog.get_logger()


class Passthrough:
    """The handler of `holdover pr-helper`."""

    def __init__(self, io: SgIo, timeout: float = 20.0) -> None:
        """``timeout``: seconds for one command."""
        self._io = io
        self._timeout = timeout

    async def handle(self, peer: Peer, descriptor: int, command: Command) -> Response:
        """Carry out one command. A device without an answer is said to be out of reach (SPC-4 table 56)."""
        name = f"device of process {peer.pid}"
        try:
            response = await self._io.execute(descriptor, command, name, self._timeout)
        except PathError as error:
            log.warning("no answer", pid=peer.pid, cdb=command.cdb.hex(), error=error.problem)
            return check_condition(
                SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE
            )
        log.info("command", pid=peer.pid, cdb=command.cdb.hex(), answer=describe_response(response))
        return response
