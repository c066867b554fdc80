"""Listening sockets that outlive a restart, in the file descriptor store of systemd.

A program that ends closes its sockets, and whoever connects before the next one listens is refused. So a
service gives its listening sockets to the service manager (FDSTORE=1, sd_notify(3)), which keeps them open
and gives them to the next process of the service (LISTEN_FDS, sd_listen_fds(3)). Connections that come in
between wait in the backlog.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterable, Iterator, MutableMapping
from typing import Any

from holdover.service.notify import ServiceManager

_FIRST = 3  # sd_listen_fds(3)
_BACKLOG = 1024
_REMOVAL_SECONDS = 2.0
"""How long to wait until the manager has closed a socket whose port is wanted by another one."""
_PAUSE = 0.01


def new_listener(family: int, address: Any) -> socket.socket:
    """A new listening socket.

    Raises:
        OSError: The address cannot be listened on.
    """
    return socket.create_server(address, family=family, backlog=_BACKLOG)


class StoredSockets:
    """The listening TCP sockets of one service. Without a service manager they are ordinary ones."""

    def __init__(self, manager: ServiceManager, inherited: tuple[socket.socket, ...] = ()) -> None:
        """``inherited``: what the manager has kept since an earlier start; this object owns them."""
        self._manager = manager
        self._inherited = list(inherited)
        self._opened: list[socket.socket] = []

    @classmethod
    def of(cls, environment: MutableMapping[str, str], pid: int, manager: ServiceManager) -> StoredSockets:
        """The sockets that an environment names; ``pid`` is the number of this process.

        The variables are removed from ``environment``, so that no child process uses them.
        """
        meant_for = environment.pop("LISTEN_PID", "")
        count = environment.pop("LISTEN_FDS", "")
        environment.pop("LISTEN_FDNAMES", None)
        if meant_for != str(pid) or not count.isdecimal():
            return cls(manager)
        return cls.among(range(_FIRST, _FIRST + int(count)), manager)

    @classmethod
    def among(cls, descriptors: Iterable[int], manager: ServiceManager) -> StoredSockets:
        """The listening TCP sockets among descriptors that this process has inherited."""
        return cls(manager, tuple(_listening(descriptors)))

    def descriptors(self) -> list[int]:
        """Those of the sockets that are open."""
        return [each.fileno() for each in self._opened if each.fileno() >= 0]

    def open(self, family: int, address: Any) -> socket.socket:
        """A listening socket at a numeric address: the one that was kept, or a new one, which is kept from
        now on. The caller closes it.

        Raises:
            OSError: The address cannot be listened on.
        """
        found = self._take(family, address)
        if found is None:
            found = self._new(family, address)
        if address[1]:
            self._manager.store(_name(found), found.fileno())
        self._opened = [each for each in self._opened if each.fileno() >= 0]
        self._opened.append(found)
        return found

    def close_unused(self) -> None:
        """Let go of the sockets that nobody has opened again: their addresses are not wanted any more."""
        for each in self._inherited:
            self._manager.remove(_name(each))
            each.close()
        self._inherited.clear()

    def _take(self, family: int, address: Any) -> socket.socket | None:
        for each in self._inherited:
            if each.family == family and each.getsockname() == tuple(address):
                self._inherited.remove(each)
                return each
        return None

    def _new(self, family: int, address: Any) -> socket.socket:
        try:
            return new_listener(family, address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not self._give_way(address[1]):
                raise
        end = time.monotonic() + _REMOVAL_SECONDS
        while True:
            try:
                return new_listener(family, address)
            except OSError:
                if time.monotonic() > end:
                    raise
            time.sleep(_PAUSE)  # until the manager has closed its own copy

    def _give_way(self, port: int) -> bool:
        """Let go of the kept sockets at other addresses of that port; returns whether there were any."""
        in_the_way = [each for each in self._inherited if each.getsockname()[1] == port]
        for each in in_the_way:
            self._inherited.remove(each)
            self._manager.remove(_name(each))
            each.close()
        return bool(in_the_way)


def _listening(descriptors: Iterable[int]) -> Iterator[socket.socket]:
    """The listening TCP sockets among the descriptors of this process; the others are closed."""
    for descriptor in descriptors:
        try:
            found = socket.socket(fileno=descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.close(descriptor)
            continue
        of_tcp = found.family in (socket.AF_INET, socket.AF_INET6) and found.type == socket.SOCK_STREAM
        if of_tcp and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            found.set_inheritable(False)
            yield found
        else:
            found.close()


def _name(listener: socket.socket) -> str:
    """The name of a socket in the store, which may not have a colon."""
    host, port = listener.getsockname()[:2]
    return f"{host}_{port}".replace(":", "_")
