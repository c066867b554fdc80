"""A handler that tracks nothing: it sends each command unchanged to the command's descriptor by SG_IO."""

from __future__ import annotations

import logging

import structlog

from holdover.helper.connection import Peer
from holdover.paths.sgio import OpenDevice, carry_out
from holdover.scsi.command import Command, Response
from holdover.scsi.path import PathError
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition, describe_response

_UNREACHED = check_condition(SenseKey.ABORTED_COMMAND, AdditionalSense.LOGICAL_UNIT_COMMUNICATION_FAILURE)


class Passthrough:
    """The handler of `holdover pr-helper`."""

    def __init__(self, timeout: float = 20.0) -> None:
        """``timeout``: the seconds that one command may take."""
        self._timeout = timeout
        self._log = structlog.get_logger().bind()
        # Format a log line only if the log takes it: formatting takes as long as all other work here.
        self._tell = self._log.is_enabled_for(logging.INFO)

    def handle(self, peer: Peer, device: OpenDevice, command: Command) -> Response:
        """Carry out one command. A device that does not answer counts as out of reach (SPC-4 table 56)."""
        try:
            response = carry_out(device, command, "device", self._timeout)
        except PathError as error:
            self._log.warning(
                "The LUN did not answer a command.", pid=peer.pid, cdb=command.cdb.hex(), reason=error.problem
            )
            return _UNREACHED
        if self._tell:
            answer = describe_response(response)
            self._log.info("A command was carried out.", pid=peer.pid, cdb=command.cdb.hex(), answer=answer)
        return response
