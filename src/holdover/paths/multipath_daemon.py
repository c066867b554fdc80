"""multipathd, asked through libmpathcmd: which paths can be used, and the key that new paths get.

A path that comes back, or is added, has a registration only if somebody makes one before commands of the
guest go down it. multipathd does, with the key that it keeps for the device in its file of keys, if that is
registered on the logical unit; so it has to be told of every change of the key.
"""

from __future__ import annotations

import ctypes
import functools
import os

from holdover.paths.multipath_command import Registration
from holdover.paths.path import PathError

__all__ = ["MultipathDaemon"]

_LIBRARY = "libmpathcmd.so.0"
_TIMEOUT = 10_000  # milliseconds for one command; it waits while multipathd looks at paths
_USABLE = frozenset({"ready", "ghost"})
_WATCHED = frozenset({"1", "set"})  # by version
_NO_KEY = "none"
_APTPL = ":aptpl"


class MultipathDaemon:
    """One connection to multipathd, made by the first command."""

    def __init__(self) -> None:
        self._connection: int | None = None

    def usable(self) -> frozenset[str]:
        """The disks ("sda") that multipathd has checked and found usable as paths.

        Raises:
            PathError: multipathd cannot be asked: says what to do.
        """
        answer = self._ask("list paths raw format %d|%T")
        words = (line.strip().split("|") for line in answer.splitlines() if "|" in line)
        return frozenset(disk for disk, state in words if state.strip() in _USABLE)

    def registration(self, name: str) -> Registration | None:
        """With what a new path of the device ``name`` would be registered; None: it would not.

        Raises:
            PathError: multipathd cannot be asked, or does not know the device.
        """
        if self._ask(f"getprstatus map {name}").strip() not in _WATCHED:
            return None
        return self._key(name)

    def register(self, name: str, registration: Registration | None) -> None:
        """Have new paths of ``name`` registered with a key from now on, or with none.

        Raises:
            PathError: multipathd cannot be told, refuses, or would not do it.
        """
        if registration is None or registration.key == 0:
            self._tell(f"unsetprstatus map {name}")
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
        self._tell(f"setprstatus map {name}")

    def _key(self, name: str) -> Registration | None:
        answer = self._ask(f"getprkey map {name}").strip()
        if answer == _NO_KEY:
            return None
        try:
            return Registration(int(answer.removesuffix(_APTPL), 16), answer.endswith(_APTPL))
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
        """Whether it has done what it was told."""
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
