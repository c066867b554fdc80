"""An unprivileged local user: a real process with uid 65534 and no capabilities."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can start a process of another user")

_CLIENT = """
import array, json, os, socket, ssl, sys, time

"x".encode("idna")  # no module can be loaded once it is another user
user = int(sys.argv.pop(1))
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)

def connect(path):
    client = socket.socket(socket.AF_UNIX)
    client.connect(path)
    client.sendall(bytes(4))
    return client

def receive(client, length):
    data = b""
    while len(data) < length:
        piece = client.recv(length - len(data))
        if not piece:
            sys.exit("hung up")
        data += piece
    return data

def send(client, descriptor, cdb, data=b""):
    rights = array.array("i", [descriptor])
    client.sendmsg([cdb.ljust(16, bytes(1))], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    client.sendall(data)

def reply(client):
    header = receive(client, 104)
    return header[3], receive(client, int.from_bytes(header[4:8], "big"))

READ_KEYS = bytes.fromhex("5e000000000000004000")
REGISTER = bytes.fromhex("5f000000000000001800")
"""


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, as /run/holdover is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@contextmanager
def program_of(
    script: str, *arguments: str, user: int = NOBODY, descriptors: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """A process of a user, which runs a script after the small helper client above.

    It gets ``arguments`` in sys.argv and on its command line, where QEMU has its options.
    """
    process = subprocess.Popen(
        # it becomes the user itself: the interpreter may be in a folder that only root may enter
        [sys.executable, "-S", "-c", _CLIENT + script, str(user), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
        pass_fds=descriptors,
    )
    try:
        yield process
    finally:
        process.communicate()
