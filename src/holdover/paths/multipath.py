"""A logical unit behind a device-mapper multipath device: one disk, as many I_T nexuses as it has paths.

`multipath_command` says what each path has to do; here it is done, path by path in the calling thread, as
arrays are known that take long over two registrations at once. multipathd is told of a new key before the
paths are, so that a path that comes back in between is not left out, and told the old one again if the
logical unit refuses.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from holdover.paths.multipath_command import Registration, Send, Steps, Usable, carry, registration_of
from holdover.paths.multipath_daemon import MultipathDaemon
from holdover.paths.multipath_map import MultipathMap, MultipathPath, is_multipath, read_map
from holdover.paths.path import AnswerLost, PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.opcodes import OperationCode

__all__ = ["SendToPath", "carry_out_multipath", "nexuses_of"]

SendToPath = Callable[[int, Command, str], Response]
"""Carries out one command on an open disk, whose name is for errors. Raises PathError and AnswerLost."""

_DEV = Path("/dev")

_changing: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
"""By device number: two changes of one device must not meet half way."""


def nexuses_of(device: Path) -> int:
    """How many I_T nexuses a device of this host is: the paths of a multipath device, else 1."""
    try:
        number = device.stat().st_rdev
        return len(read_map(number).paths) if is_multipath(number) else 1
    except (OSError, PathError):
        return 1  # who uses it will be told why it cannot be used


def carry_out_multipath(device: int, command: Command, send: SendToPath) -> Response:
    """Carry out one command on the multipath device of this number, while the calling thread waits.

    Raises:
        PathError: It was not carried out.
        AnswerLost: It may have been carried out, or not, or by some of the paths alone.
    """
    if command.opcode != OperationCode.PERSISTENT_RESERVE_OUT:
        return _carry_out(device, command, send)
    with _changing[device]:
        return _carry_out(device, command, send)


def _carry_out(device: int, command: Command, send: SendToPath) -> Response:
    found = read_map(device)
    daemon = MultipathDaemon()
    try:
        usable = _usable(found, daemon, changing=command.opcode == OperationCode.PERSISTENT_RESERVE_OUT)
        registration = registration_of(command)
        if registration is None:
            return _run(found, carry(command, usable), send)
        return _register(found, usable, command, registration, daemon, send)
    finally:
        daemon.close()


def _register(
    found: MultipathMap,
    usable: Usable,
    command: Command,
    registration: Registration,
    daemon: MultipathDaemon,
    send: SendToPath,
) -> Response:
    before = daemon.registration(found.name)
    wanted = registration if registration.key else None
    if before != wanted:
        daemon.register(found.name, wanted)
    try:
        response = _run(found, carry(command, usable), send)
    except AnswerLost:
        raise  # only the logical unit knows; multipathd asks it before it registers a path
    except PathError:
        _put_back(found, before, wanted, daemon)
        raise
    if not response.good:
        _put_back(found, before, wanted, daemon)
    return response


def _put_back(
    found: MultipathMap, before: Registration | None, now: Registration | None, daemon: MultipathDaemon
) -> None:
    if before != now:
        # if that fails, multipathd finds its key on no path and registers nothing
        with contextlib.suppress(PathError):
            daemon.register(found.name, before)


def _usable(found: MultipathMap, daemon: MultipathDaemon, *, changing: bool) -> Usable:
    """Which paths may be used, by what multipathd has found.

    A command that changes nothing does without multipathd, by what the kernel says.
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
    return Usable(found.name, paths, missing=len(paths) < len(found.paths))


def _run(found: MultipathMap, steps: Steps[Response], send: SendToPath) -> Response:
    try:
        request = next(steps)
        while True:
            try:
                answer = _send(found, request, send)
            except PathError as error:
                request = steps.throw(error)
            else:
                request = steps.send(answer)
    except StopIteration as done:
        response: Response = done.value
        return response


def _send(found: MultipathMap, request: Send, send: SendToPath) -> Response:
    path = found.paths[request.path]
    name = f"{found.name}: {path.disk}"
    descriptor = _open(path, name)
    try:
        return send(descriptor, request.command, name)
    finally:
        os.close(descriptor)


def _open(path: MultipathPath, name: str) -> int:
    """Open a path's disk, whose name may have gone to another one meanwhile."""
    try:
        descriptor = os.open(_DEV / path.disk, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise PathError(name, error.strerror or str(error)) from error
    if os.fstat(descriptor).st_rdev != path.device:
        os.close(descriptor)
        raise PathError(name, "it is another disk by now")
    return descriptor
