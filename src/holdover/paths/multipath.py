"""A logical unit behind a device-mapper multipath device: one disk, and one I_T nexus for each path.

`multipath_command` says what each path has to do. This module does it in the calling thread, one path after
the other, because some arrays need long for two registrations at once. multipathd gets a new key before the
paths get it, because multipathd may refuse to keep the key. It uses the key only after the logical unit has
accepted it: until then, only another node may have that key. A path that comes back in between catches up
afterwards.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from holdover.paths.multipath_command import DeviceRegistration, carry, catch_up, registration_of, rejoin
from holdover.paths.multipath_daemon import MultipathDaemon
from holdover.paths.multipath_map import MultipathMap, MultipathPath, is_multipath, read_map
from holdover.paths.multipath_steps import InitiatorPorts, PathSteps, Send, T, Usable
from holdover.reservations.driver import run_sync
from holdover.scsi.cdbs.opcodes import OperationCode
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, PathError

SendToPath = Callable[[int, Command, str], Response]
"""Carries out one command on an open disk; the name is for errors. Raises PathError and AnswerLost."""

_DEV = Path("/dev")

_changing: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
"""Locks by device number: a second change of a device must not begin before the first one has ended."""

_ports = InitiatorPorts()


def nexuses_of(device: Path) -> int:
    """How many I_T nexuses a device of this host has: the paths of a multipath device, else 1."""
    try:
        number = device.stat().st_rdev
        return len(read_map(number).paths) if is_multipath(number) else 1
    except (OSError, PathError):
        return 1  # the first command on it says why it cannot be used


def carry_out_multipath(device: int, command: Command, send: SendToPath) -> Response:
    """Carry out one command on the multipath device with this number. The calling thread waits.

    Raises:
        PathError: The command was not carried out.
        AnswerLost: The command may have been carried out, or not, or by some of the paths only.
    """
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return _carry_out(device, command, send)
    with _changing[device]:
        return _carry_out(device, command, send)


def _carry_out(device: int, command: Command, send: SendToPath) -> Response:
    found = read_map(device)
    daemon = MultipathDaemon()
    try:
        changing = command.opcode == OperationCode.PERSISTENT_RESERVE_OUT
        paths = _usable(found, daemon, changing=changing)
        if not changing:
            return _run(found, carry(command, _device(found, paths, None)), send)
        registration = registration_of(command)
        before = daemon.registration(found.name)
        wanted = before
        if registration is not None:
            wanted = registration if registration.key else None
        change = _Change(found, _device(found, paths, before), daemon, send, before, wanted)
        return change.carry_out(command)
    finally:
        daemon.close()


@dataclass(frozen=True, slots=True)
class _Change:
    """A PERSISTENT RESERVE OUT, and what multipathd registers on returning paths before and after it."""

    found: MultipathMap
    device: Usable
    daemon: MultipathDaemon
    send: SendToPath
    before: DeviceRegistration | None
    wanted: DeviceRegistration | None
    failed: set[int] = field(default_factory=set)

    def carry_out(self, command: Command) -> Response:
        if self.before != self.wanted:
            self.daemon.keep(self.found.name, self.wanted)
        try:
            response = _run(self.found, carry(command, self.device), self.send, self.failed)
        except AnswerLost:
            # only the logical unit knows; multipathd looks there for the key before it registers a path
            self._watch(self.wanted)
            raise
        except PathError:
            self._put_back()
            raise
        if response.good:
            self._watch(self.wanted)
            self._catch_up(lambda returned: catch_up(command, self.device.paths, returned))
        else:
            self._put_back()
        return response

    def _watch(self, registration: DeviceRegistration | None) -> None:
        # the command is done: if this fails, the next REGISTER registers the paths that come back
        if self.before != self.wanted and registration is not None:
            with contextlib.suppress(PathError):
                self.daemon.watch(self.found.name)

    def _put_back(self) -> None:
        before = self.before
        if before != self.wanted:
            with contextlib.suppress(PathError):
                self.daemon.keep(self.found.name, before)
                self._watch(before)
        if before is not None:
            self._catch_up(lambda returned: rejoin(before, self.device.paths, returned))

    def _catch_up(self, steps: Callable[[Sequence[int]], PathSteps[None]]) -> None:
        """Register the paths that came back meanwhile. If one fails again, multipathd registers it later."""
        with contextlib.suppress(PathError):
            usable = _usable(self.found, self.daemon, changing=True)
            returned = [path for path in usable if path in self.failed or path not in self.device.paths]
            _run(self.found, steps(returned), self.send)


def _usable(found: MultipathMap, daemon: MultipathDaemon, *, changing: bool) -> tuple[int, ...]:
    """The paths that may be used, by the checks of multipathd.

    A command that changes nothing can do without multipathd. It then uses what the kernel says.
    """
    try:
        checked = daemon.usable()
    except PathError as error:
        if changing:
            raise PathError(found.name, str(error)) from error
        checked = frozenset(each.disk for each in found.paths)
    paths = tuple(index for index, each in enumerate(found.paths) if each.running and each.disk in checked)
    if not paths:
        names = ", ".join(each.disk for each in found.paths)
        raise PathError(found.name, f"none of its paths can be used ({names}); see `multipath -ll`")
    return paths


def _device(found: MultipathMap, usable: tuple[int, ...], kept: DeviceRegistration | None) -> Usable:
    for each in found.paths:
        if each.name is not None:
            _ports.add(each.initiator, each.name)
    targets = {each.target_port for each in found.paths}
    return Usable(
        found.name,
        usable,
        labels=tuple(each.initiator for each in found.paths),
        target_ports=None if None in targets else frozenset(each for each in targets if each is not None),
        ports=_ports,
        key=0 if kept is None else kept.key,
    )


def _run(found: MultipathMap, steps: PathSteps[T], send: SendToPath, failed: set[int] | None = None) -> T:
    """Carry out the steps. The paths that did not answer are added to ``failed``."""

    def carry_out(request: Send) -> Response:
        try:
            return _send(found, request, send)
        except PathError:
            if failed is not None:
                failed.add(request.path)
            raise

    return run_sync(steps, carry_out)


def _send(found: MultipathMap, request: Send, send: SendToPath) -> Response:
    path = found.paths[request.path]
    name = f"{found.name}: {path.disk}"
    descriptor = _open(path, name)
    try:
        return send(descriptor, request.command, name)
    finally:
        os.close(descriptor)


def _open(path: MultipathPath, name: str) -> int:
    """Open a path's disk, and check that its name does not belong to another disk by now."""
    try:
        descriptor = os.open(_DEV / path.disk, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise PathError(name, error.strerror or str(error)) from error
    if os.fstat(descriptor).st_rdev != path.device:
        os.close(descriptor)
        raise PathError(name, "it is another disk by now")
    return descriptor
