"""Asks multipathd, through libmpathcmd: which paths can be used, and the key for new paths.

A path that comes back or is added has no registration at first. multipathd registers it before the guest's
commands go down it, with the key that its file of keys has for the device, if that key is registered on the
logical unit. So multipathd must be told of every change of the key.
"""

from __future__ import annotations

import ctypes
import functools
import os

from holdover.paths.multipath_command import DeviceRegistration
from holdover.scsi.path import PathError

_LIBRARY = "libmpathcmd.so.0"
_TIMEOUT = 10_000  # milliseconds for one command; a command waits while multipathd checks paths
_USABLE = frozenset({"ready", "ghost"})
_WATCHED = frozenset({"1", "set"})  # the word depends on multipathd's version
_NO_KEY = "none"
_APTPL = ":aptpl"


class MultipathDaemon:
    """One connection to multipathd; the first command opens it."""

    def __init__(self) -> None:
        self._connection: int | None = None

    def usable(self) -> frozenset[str]:
        """The disks ("sda") that multipathd has checked and found usable as paths.

        Raises:
            PathError: multipathd cannot be asked; the message says what to do.
        """
        answer = self._ask("list paths raw format %d|%T")
        words = (line.strip().split("|") for line in answer.splitlines() if "|" in line)
        return frozenset(disk for disk, state in words if state.strip() in _USABLE)

    def registration(self, name: str) -> DeviceRegistration | None:
        """The registration that a new path of the device ``name`` would get; None if it would get none.

        Raises:
            PathError: multipathd cannot be asked, or does not know the device.
        """
        if self._ask(f"getprstatus map {name}").strip() not in _WATCHED:
            return None
        return self._key(name)

    def keep(self, name: str, registration: DeviceRegistration | None) -> None:
        """Let multipathd register no new paths of ``name`` from now on, and give it a key for `watch`.

        Raises:
            PathError: multipathd cannot be told, refuses, or would not register new paths.
        """
        self._tell(f"unsetprstatus map {name}")
        if registration is None:
            self._tell(f"unsetprkey map {name}")
            return
        suffix = _APTPL if registration.aptpl else ""
        taken = self._take(f"setprkey map {name} key {registration.key:#x}{suffix}")
        if not taken or self._key(name) != registration:
            self._take(f"unsetprkey map {name}")
            raise _problem(
                f"it would not register new paths of {name}; put `reservation_key file` into the defaults of "
                "/etc/multipath.conf, then run `multipathd reconfigure`"
            )

    def watch(self, name: str) -> None:
        """Let multipathd register new paths of ``name`` from now on, with the key that it has.

        Raises:
            PathError: multipathd cannot be told, or refuses.
        """
        self._tell(f"setprstatus map {name}")

    def _key(self, name: str) -> DeviceRegistration | None:
        answer = self._ask(f"getprkey map {name}").strip()
        if answer == _NO_KEY:
            return None
        try:
            return DeviceRegistration(int(answer.removesuffix(_APTPL), 16), answer.endswith(_APTPL))
        except ValueError:
            raise _problem(f"it answers {answer!r} to the question for the key of {name}") from None

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            os.close(self._connection)
            self._connection = None

    def _tell(self, command: str) -> None:
        if not self._take(command):
            raise _problem(f"it refuses `{command}`; see its log")

    def _take(self, command: str) -> bool:
        """Whether multipathd has done what the command says."""
        answer = self._ask(command).strip()
        if "root" in answer:
            raise _problem(f"it answers {answer!r} to `{command}`; Holdover has to run as root")
        return answer == "ok"

    def _ask(self, command: str) -> str:
        library = _library()
        if self._connection is None:
            connection = library.mpath_connect()
            if connection < 0:
                raise _problem("it does not run; start it: systemctl start multipathd")
            self._connection = connection
        reply = ctypes.c_char_p()
        failed = library.mpath_process_cmd(self._connection, command.encode(), ctypes.byref(reply), _TIMEOUT)
        if failed or reply.value is None:
            error = os.strerror(ctypes.get_errno())
            self.close()
            raise _problem(f"no answer to `{command}`: {error}")
        try:
            return reply.value.decode(errors="replace")
        finally:
            _libc().free(reply)


def _problem(text: str) -> PathError:
    return PathError("multipathd", text)


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.free.restype = None
    return libc


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY, use_errno=True)
    except OSError:
        raise _problem(f"there is no {_LIBRARY}; install the Debian package multipath-tools") from None
    library.mpath_connect.argtypes = ()
    library.mpath_process_cmd.argtypes = (
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.POINTER(ctypes.c_char_p),
        ctypes.c_uint,
    )
    return library
