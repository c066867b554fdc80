"""Two agents with lock sockets, and what libvirt does there: QEMUs that begin and end, and questions."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from holdover.config.libvirt import LibvirtConfig
from holdover.libvirt.connection import LockClient, LockReply
from holdover.libvirt.lock_protocol import AcquireResource, Register, ReleaseResource, Request
from tests.agent.handover.test_trouble import until
from tests.agent.hosts import GUEST, San, san

UUID = uuid.UUID("c7a5fdbd-edaf-9455-926a-d65c16db1809")

_QEMU = """
import os, socket, struct, sys, uuid
path, name, owner = sys.argv[1:4]
text = name.encode()
body = uuid.UUID(owner).bytes + struct.pack(">I", len(text)) + text + bytes(-len(text) % 4)
body += struct.pack(">3I", 1, os.getpid(), 0)
lock = socket.socket(socket.AF_UNIX)
lock.connect(path)
lock.sendall(struct.pack(">I6I", 28 + len(body), 0xEA7BEEF, 1, 1, 0, 1, 0) + body)
size, = struct.unpack(">I", lock.recv(4, socket.MSG_WAITALL))
reply = lock.recv(size - 4, socket.MSG_WAITALL)
no = struct.unpack(">6I", reply[:24])[5]
if not no:
    lock.sendall(struct.pack(">I6II", 32, 0xEA7BEEF, 1, 2, 0, 2, 0, 0))
    lock.recv(28, socket.MSG_WAITALL)
print(reply[36:].decode(errors="replace") if no else "", flush=True)
if not no:
    sys.stdin.read()
"""
"""libvirtd's child, which asks by its own connection before it becomes QEMU."""


_ENDED = (1 << 22) - 1
"""A number that no process of a test has."""


class Qemu:
    """A process that libvirt has started for the guest.

    Attributes:
        refused: Why it was not let begin; empty if it was.
    """

    def __init__(self, process: asyncio.subprocess.Process, refused: str) -> None:
        self.refused = refused
        self.process = process

    async def end(self) -> None:
        """End it, as libvirt or a crash does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class LockSite:
    """The hosts of a `San`, as libvirt on each of them uses their lock sockets.

    Attributes:
        sockets: By host: where libvirt asks, if that is not the agent's own socket.
    """

    def __init__(self, site: San, folder: Path) -> None:
        self.san = site
        self._folder = folder
        self.sockets: dict[str, Path] = {}
        self._qemus: list[tuple[str, Qemu]] = []

    def socket(self, host: str) -> Path:
        """Where libvirt on a host asks."""
        return self.sockets.get(host, self.agent_socket(host))

    def agent_socket(self, host: str) -> Path:
        """The agent's lock socket of a host."""
        return self._folder / f"{host}.lock"

    async def begin(
        self, host: str, *, incoming: bool = False, name: str = GUEST, options: Sequence[str] = ()
    ) -> Qemu:
        """libvirt on a host starts a QEMU of the guest; ``options`` are more of its command line."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            _QEMU,
            str(self.socket(host)),
            name,
            str(UUID),
            "-name",
            f"guest={name}",
            "-uuid",
            str(UUID),
            *(("-incoming", "defer") if incoming else ()),
            *(("-device", "scsi-block,drive=disk0") if name == GUEST else ()),
            *options,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdout is not None
        qemu = Qemu(process, (await process.stdout.readline()).decode().strip("\n"))
        self._qemus.append((host, qemu))
        return qemu

    async def ask(self, host: str, *then: Request, name: str = GUEST) -> str:
        """libvirtd on a host asks whether the guest may run: why not, or empty for yes.

        ``then`` is what it calls next on the same connection.
        """
        reader, writer = await asyncio.open_unix_connection(self.socket(host))
        client = LockClient()
        error = ""
        # libvirtd is another process than the QEMU whose number it names
        for request in (Register(UUID, name, 1, self._pid(host)), *then):
            writer.write(client.call(request))
            replies: list[LockReply] = []
            while not replies:
                data = await reader.read(65536)
                assert data, "the lock socket was closed"
                replies = client.receive(data)
            error = replies[0].error
            if error:
                break
        writer.close()
        return error

    def _pid(self, host: str) -> int:
        """The number of the newest QEMU of a host; of a process that has ended where there was none."""
        found = [qemu.process.pid for where, qemu in self._qemus if where == host]
        return found[-1] if found else _ENDED

    async def stops(self, host: str) -> None:
        """The guest has stopped on a host, and libvirtd there says so."""
        assert await self.ask(host, ReleaseResource("/locks", "disk")) == ""

    async def resumes(self, host: str) -> str:
        """libvirtd on a host wants to let the guest run: why it must not, or empty."""
        return await self.ask(host, AcquireResource("/locks", "disk"))

    async def hang_up(self, host: str) -> None:
        """libvirtd on a host asks, and dies before it hears the answer."""
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(self.socket(host)))
            asking.sendall(LockClient().call(Register(UUID, GUEST, 1, self._pid(host))))

    async def state(self, host: str) -> str:
        """The state of the newest handover, by a host."""
        return (await self.san.clients[host].handover(GUEST)).state

    async def reaches(self, host: str, state: str) -> None:
        """Wait until the newest handover is in a state, by a host."""
        await until(self.san, host, lambda newest: newest.state == state)

    async def close(self) -> None:
        for _, qemu in self._qemus:
            await qemu.end()


@asynccontextmanager
async def lock_site(
    folder: Path, hosts: Sequence[str] = ("host-a", "host-b"), settings: Mapping[str, Any] | None = None
) -> AsyncGenerator[LockSite, None]:
    """Agents with lock sockets; the guest has its disk on the first, and no QEMU yet."""
    async with san(folder, hosts=hosts, migrate_pr=["on"] * len(hosts)) as site:
        made = LockSite(site, folder)
        for host in hosts:
            await site.stop(host)
            values: dict[str, Any] = {
                "lock_socket": str(made.agent_socket(host)),
                "uid": os.getuid(),
                "events": "",
            }
            libvirt = LibvirtConfig(**(values | dict(settings or {})))
            site.configs[host] = msgspec.structs.replace(site.configs[host], libvirt=libvirt)
            await site.start(host)
        try:
            yield made
        finally:
            await made.close()
