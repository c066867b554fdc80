"""The commands of one connection that are being carried out.

A command runs as a task of its own, unless its device answers it at once (`ImmediateDeviceServer`) or passes
it on without a task (`ForwardingDeviceServer`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import cast

from holdover.iscsi.target.events import CommandReceived
from holdover.iscsi.target.logical_units import answer_for_missing, report_luns
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import (
    DeviceServer,
    Forwarded,
    ForwardingDeviceServer,
    ImmediateDeviceServer,
    Response,
)
from holdover.scsi.nexus import ITNexus
from holdover.scsi.sense import AdditionalSense, SenseKey, check_condition

_log = logging.getLogger(__name__)


class RunningCommands:
    """Starts commands and stops them."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, ended: Callable[[CommandReceived, Response | None], None]
    ) -> None:
        """``ended`` is called once for each command that `start` has not answered: with its response, or with
        None when it was stopped."""
        self._loop = loop
        self._ended = ended
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._forwarded: dict[int, tuple[CommandReceived, Forwarded]] = {}
        self._aborting: set[asyncio.Task[None]] = set()

    def start(
        self, luns: Mapping[int, DeviceServer], nexus: ITNexus | None, event: CommandReceived
    ) -> Response | None:
        """Start a command; returns its response if it has one already."""
        command = event.command
        device = None if event.lun is None else luns.get(event.lun)
        if command.opcode == OperationCode.REPORT_LUNS and (device is not None or event.lun == 0):
            return report_luns(command, luns)
        if device is None or nexus is None:
            return answer_for_missing(command)
        try:
            if hasattr(device, "execute_now"):
                response = cast(ImmediateDeviceServer, device).execute_now(nexus, command)
                if response is not None:
                    return response
            elif hasattr(device, "forward"):
                forwards = cast(ForwardingDeviceServer, device)
                forwarded = forwards.forward(nexus, command, partial(self._answered, event))
                if forwarded is not None:
                    self._forwarded[event.tag] = (event, forwarded)
                    return None
        except Exception:
            return _failed(event)
        self._tasks[event.tag] = self._loop.create_task(self._execute(device, nexus, event))
        return None

    def adopt(
        self, event: CommandReceived, forward: Callable[[Callable[[Response], None]], Forwarded]
    ) -> None:
        """Take a command that is under way; ``forward`` makes its end known to a function."""
        self._forwarded[event.tag] = (event, forward(partial(self._answered, event)))

    async def stop(self, tags: Iterable[int]) -> None:
        """Abort commands; returns when they have stopped."""
        tags = set(tags)
        stopping = [task for tag, task in self._tasks.items() if tag in tags]
        for task in stopping:
            task.cancel()
        for tag in tags:
            if (forwarded := self._forwarded.pop(tag, None)) is not None:
                stopping.append(task := self._loop.create_task(self._abort(*forwarded)))
                self._aborting.add(task)
                task.add_done_callback(self._aborting.discard)
        if stopping:
            await asyncio.wait(stopping)

    async def stop_all(self) -> None:
        """Abort all commands; returns when they have stopped, with those that are being aborted already."""
        await self.stop([*self._tasks, *self._forwarded])
        if self._aborting:
            await asyncio.wait(self._aborting)

    def _answered(self, event: CommandReceived, response: Response) -> None:
        del self._forwarded[event.tag]
        self._ended(event, response)

    async def _execute(self, device: DeviceServer, nexus: ITNexus, event: CommandReceived) -> None:
        response: Response | None = None
        try:
            response = await device.execute(nexus, event.command)
        except Exception:
            response = _failed(event)
        finally:
            if self._tasks.get(event.tag) is asyncio.current_task():
                del self._tasks[event.tag]
            self._ended(event, response)

    async def _abort(self, event: CommandReceived, forwarded: Forwarded) -> None:
        try:
            await forwarded.abort()
        except Exception:
            _failed(event)
        finally:
            self._ended(event, None)


def _failed(event: CommandReceived) -> Response:
    _log.exception("LUN %s: command %s failed inside the target", event.lun, event.command.cdb.hex(" "))
    return check_condition(SenseKey.HARDWARE_ERROR, AdditionalSense.INTERNAL_TARGET_FAILURE)
