"""The socket at which a helper listens: one that it makes, or one that systemd has opened for it."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

_FIRST_ACTIVATED = 3  # sd_listen_fds(3)
_BACKLOG = 1024


class ListenerError(Exception):
    """There is no socket at which to listen; the message says why."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening Unix socket.

    Attributes:
        socket: The socket; not blocking, close-on-exec.
        path: The file that was made for the socket and must be removed at the end; None if it is systemd's.
        inode: Device and inode of that file, so that nobody else's file is removed.
    """

    socket: socket.socket
    path: Path | None = None
    inode: tuple[int, int] | None = None

    def close(self) -> None:
        """Stop listening, and remove the file unless another file has taken its place."""
        self.socket.close()
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            if _inode(self.path) == self.inode:
                self.path.unlink()


def listen(path: Path, mode: int | None = None, group: int | None = None) -> Listener:
    """Listen at ``path``, with permission bits ``mode`` (None: as the umask says) and group number ``group``.

    An old socket at which nobody listens any more is replaced.

    Raises:
        ListenerError: Another process listens there, something else is there, or the system refuses.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _remove_stale(path)
        # nobody may connect before the mode and the group are right
        before = os.umask(0o177) if mode is not None or group is not None else None
        try:
            listener.bind(os.fspath(path))
        finally:
            if before is not None:
                os.umask(before)
        if group is not None:
            os.chown(path, -1, group)
        if mode is not None:
            path.chmod(mode)
        elif before is not None:
            path.chmod(0o777 & ~before)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return Listener(listener, path, _inode(path))
    except OSError as error:
        listener.close()
        raise ListenerError(f"{path}: {error.strerror or error}") from error
    except ListenerError:
        listener.close()
        raise


def activated(environment: MutableMapping[str, str]) -> Listener | None:
    """The socket that systemd has opened for this process (sd_listen_fds(3)); None if there is none.

    This function removes the variables from ``environment``, so that no child process uses them.

    Raises:
        ListenerError: There are several sockets, or it is not a listening Unix stream socket.
    """
    meant_for = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()) or not count.isdecimal() or int(count) == 0:
        return None
    if int(count) > 1:
        raise ListenerError(f"LISTEN_FDS: {count} sockets; this listens at one")
    try:
        listener = socket.socket(fileno=_FIRST_ACTIVATED)
    except OSError as error:
        raise ListenerError(f"LISTEN_FDS: descriptor {_FIRST_ACTIVATED}: {error.strerror}") from error
    listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if listener.family != socket.AF_UNIX or listener.type != socket.SOCK_STREAM or not listening:
        listener.detach()
        raise ListenerError(f"LISTEN_FDS: descriptor {_FIRST_ACTIVATED} is no listening Unix stream socket")
    listener.setblocking(False)
    listener.set_inheritable(False)
    return Listener(listener)


def resolve_group(text: str) -> int:
    """The number of a group that is given by its name or its number.

    Raises:
        ValueError: There is no such group.
    """
    with contextlib.suppress(KeyError):
        return grp.getgrnam(text).gr_gid
    if text.isdecimal():
        return int(text)
    raise ValueError(f"there is no group {text!r}")


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenerError(f"{path}: there is something that is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as attempt:
        attempt.setblocking(False)
        try:
            attempt.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # somebody listens: its backlog is full
    raise ListenerError(f"{path}: somebody listens there already")


def _inode(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
