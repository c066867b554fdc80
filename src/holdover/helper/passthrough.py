"""A helper that looks at nothing: each command goes to its descriptor by SG_IO, as it came."""

from __future__ import annotations

import logging

import structlog

from holdover.helper.connection import Peer
from holdover.paths.path import PathError
from holdover.paths.sgio import OpenDevice, carry_out
from holdover.scsi.command import Command, Response
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, describe_response

__all__ = ["Passthrough"]

_UNREACHED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)


class Passthrough:
    """The handler of `holdover pr-helper`."""

    def __init__(self, timeout: float = 20.0) -> None:
        """``timeout``: seconds for one command."""
        self._timeout = timeout
        self._log = structlog.get_logger().bind()
        # what nobody reads is not written out: it would take as long as the rest of our work
        self._tell = self._log.is_enabled_for(logging.INFO)

    def handle(self, peer: Peer, device: OpenDevice, command: Command) -> Response:
        """Carry out one command. A device without an answer is said to be out of reach (SPC-4 table 56)."""
        try:
            response = carry_out(device, command, "device", self._timeout)
        except PathError as error:
            self._log.warning("no answer", pid=peer.pid, cdb=command.cdb.hex(), error=error.problem)
            return _UNREACHED
        if self._tell:
            answer = describe_response(response)
            self._log.info("command", pid=peer.pid, cdb=command.cdb.hex(), answer=answer)
        return response
