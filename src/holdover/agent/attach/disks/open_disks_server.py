"""The process that looks at /proc/PID/fd: it does nothing else, and is the only one with CAP_SYS_PTRACE.

The kernel shows the open files of another user's process only to who may trace that process. With the same
capability one may change its memory. So the agent does without it, and asks this process by a socket.

==========  ================================================  ==============================================
who         what                                              form
==========  ================================================  ==============================================
the agent   a number that comes back with the answer, and a   two unsigned integers of 4 bytes
            process
this one    the number, how it ended, and how many devices    three unsigned integers of 4 bytes; for each
            the process has open; the type and number of      device one of 4 and one of 8
            each
==========  ================================================  ==============================================

Each packet is one message, in the machine's byte order. A look may wait for ever, for instance for a file of
a dead network file system: so each is done by a child of its own, which is killed after two seconds. It ends
with the agent's end of the socket. It imports the standard library alone, and is run as a script by
``python -I -S``, so that it stays small.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

REQUEST = struct.Struct("=II")
ANSWER = struct.Struct("=III")
DEVICE = struct.Struct("=IQ")
OK, FAILED = 0, 1
USERFAULTFD = 0, 1
"""Stands among the devices for a userfaultfd, which a QEMU has open while its memory comes by post-copy."""
MOST_DEVICES = 4096
"""The most devices of one process; its answer is then 48 KiB."""

_SECONDS = 2.0
_MOST_FILES = 65536
_MOST_STUCK = 8
"""The most children that were killed but still wait in the kernel."""
_MEMORY = 256 << 20
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_SYS_PTRACE = 1, 2, 19
_CAPABILITY_VERSION_3 = 0x20080522
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_DUMPABLE = 4


def open_devices(pid: int, proc: Path = Path("/proc")) -> Iterator[tuple[int, int]]:
    """The devices that a process has open, by type and device number (st_mode's type, st_rdev), and
    `USERFAULTFD`; this may block.

    Raises:
        OSError: The process's files cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    with os.scandir(proc / str(pid) / "fd") as descriptors:
        for number, descriptor in enumerate(descriptors):
            if number >= _MOST_FILES or len(seen) >= MOST_DEVICES:
                return
            try:
                found = descriptor.stat()
            except PermissionError:
                raise
            except OSError:
                continue  # closed meanwhile
            device = stat.S_IFMT(found.st_mode), found.st_rdev
            if not any(device) and _is_userfaultfd(descriptor.path):
                device = USERFAULTFD
            if device[1] and device not in seen:
                seen.add(device)
                yield device


def _is_userfaultfd(descriptor: str) -> bool:
    """Whether a file of the kernel's own, which has no type, is a userfaultfd."""
    try:
        return os.readlink(descriptor) == "anon_inode:[userfaultfd]"
    except OSError:
        return False  # closed meanwhile


def give_up_privileges() -> None:
    """Keep only the privileges for looking at other users' processes, and close every way to get more."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    if libc.capget(header, sets) != 0:
        sys.exit("capget is refused")
    permitted = sets[1]
    # The folder belongs to the process's owner. Either capability lets us read it; the first allows less.
    wanted = 1 << _CAP_SYS_PTRACE
    wanted |= 1 << (_CAP_DAC_READ_SEARCH if permitted & 1 << _CAP_DAC_READ_SEARCH else _CAP_DAC_OVERRIDE)
    kept = permitted & wanted
    if libc.capset(header, (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)) != 0:
        sys.exit("capset is refused")
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    os.chdir("/")


def look(agent: socket.socket, number: int, pid: int) -> None:
    """Answer one request; this runs in a child of its own."""
    try:
        found = list(open_devices(pid))
    except OSError:
        agent.send(ANSWER.pack(number, FAILED, 0))
        return
    agent.send(ANSWER.pack(number, OK, len(found)) + b"".join(DEVICE.pack(*each) for each in found))


def answer(agent: socket.socket, number: int, pid: int, seconds: float = _SECONDS) -> int | None:
    """Have a child answer one request; if the child takes too long, answer that the request failed.

    Returns the child's number if the child was killed and may not have ended yet; otherwise None.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            look(agent, number, pid)
            status = 0
        finally:
            os._exit(status)
    pidfd = os.pidfd_open(child)
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    ended = bool(poller.poll(seconds * 1000))
    os.close(pidfd)
    if ended and os.waitpid(child, 0)[1] == 0:
        return None
    if not ended:
        os.kill(child, signal.SIGKILL)
    agent.send(ANSWER.pack(number, FAILED, 0))
    return None if ended else child


def serve(agent: socket.socket) -> None:
    """Answer requests until the agent has gone."""
    stuck: list[int] = []
    while request := agent.recv(REQUEST.size):
        number, pid = REQUEST.unpack(request)
        stuck = [child for child in stuck if os.waitpid(child, os.WNOHANG)[0] == 0]
        if len(stuck) >= _MOST_STUCK:
            agent.send(ANSWER.pack(number, FAILED, 0))
            continue
        child = answer(agent, number, pid)
        if child is not None:
            stuck.append(child)


if __name__ == "__main__":
    give_up_privileges()
    # Ignore the terminal's signals: they are for the agent, and this process ends when the agent ends.
    for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signal_number, signal.SIG_IGN)
    serve(socket.socket(fileno=0))
