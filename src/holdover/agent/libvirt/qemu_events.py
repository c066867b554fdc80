"""The events of QEMU that libvirt passes on: a thread that subscribes to them, and reports what they say.

It decides nothing. The agent works without it, too, and then commits when libvirt asks on the destination.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable
from typing import Any

import structlog

from holdover.agent.libvirt.libvirt_python import load_libvirt
from holdover.libvirt.policy import Seen

log = structlog.get_logger()

_RETRY_SECONDS = 5.0
"""The seconds between two attempts to reach libvirt."""
_END_SECONDS = 2.0
_MIGRATION = {"pre-switchover": Seen.PRE_SWITCHOVER, "completed": Seen.SENT}

Report = Callable[[str, str, Seen], None]
"""Takes a guest's name and UUID, and what libvirt has passed on."""


class QemuEvents:
    """The subscription to the events of one libvirt."""

    def __init__(
        self, uri: str, report: Report, load: Callable[[], tuple[Any, Any] | None] = load_libvirt
    ) -> None:
        """``report`` is called on the loop that calls `start`; ``load`` returns libvirt's modules."""
        self._uri = uri
        self._report = report
        self._load = load
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ends = threading.Event()
        self._wake_read, self._wake_write = -1, -1
        self._libvirt: Any = None
        self._connection: Any = None

    def start(self) -> None:
        """Begin. If libvirt's modules are missing, this is logged, and nothing else happens."""
        loaded = self._load()
        if loaded is None:
            log.info(
                "Libvirt's Python modules are not installed, so commits wait for the destination's question.",
                install="python3-libvirt, or the extra holdover[libvirt]",
            )
            return
        self._libvirt, qemu = loaded
        self._loop = asyncio.get_running_loop()
        self._wake_read, self._wake_write = os.pipe()
        self._thread = threading.Thread(target=self._run, args=(qemu,), name="libvirt-events", daemon=True)
        self._thread.start()

    async def runs(self, guest: str) -> bool:
        """Whether libvirt says that a guest runs here; False if libvirt cannot be asked."""
        return await asyncio.to_thread(self._runs, guest)

    def _runs(self, guest: str) -> bool:
        connection = self._connection
        if connection is None:
            return False
        try:
            state, _ = connection.lookupByName(guest).state()
        except self._libvirt.libvirtError:
            return False
        return bool(state == self._libvirt.VIR_DOMAIN_RUNNING)

    async def close(self) -> None:
        """End the subscription."""
        if self._thread is not None:
            self._ends.set()
            os.write(self._wake_write, b".")
            await asyncio.to_thread(self._thread.join, _END_SECONDS)
            # a thread that libvirt does not answer ends with the process
            if not self._thread.is_alive():
                os.close(self._wake_read)
                os.close(self._wake_write)
            self._thread = None

    # -- in the thread ------------------------------------------------------------------------------

    def _run(self, qemu: Any) -> None:
        libvirt = self._libvirt
        libvirt.registerErrorHandler(_no_message, None)
        libvirt.virEventRegisterDefaultImpl()
        readable = libvirt.VIR_EVENT_HANDLE_READABLE
        handle = libvirt.virEventAddHandle(self._wake_read, readable, lambda *_: None, None)
        said = ""
        while not self._ends.is_set():
            try:
                self._subscribe(qemu)
                said = ""
            except libvirt.libvirtError as error:
                if said != str(error):
                    said = str(error)
                    log.warning("Libvirt's events cannot be had; commits wait.", uri=self._uri, reason=said)
            finally:
                self._connection = None
            self._ends.wait(_RETRY_SECONDS)
        libvirt.virEventRemoveHandle(handle)

    def _subscribe(self, qemu: Any) -> None:
        """Pass events on until the connection ends. Raises libvirtError if there is none."""
        libvirt = self._libvirt
        connection = self._connection = libvirt.open(self._uri)
        try:
            connection.setKeepAlive(5, 3)
            qemu.qemuMonitorEventRegister(connection, None, None, self._event, None, 0)
            log.info("The agent hears libvirt's events of QEMU.", uri=self._uri)
            # what happened before is seen in what runs now
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_RUNNING):
                self._tell(domain, Seen.RUNS)
            while not self._ends.is_set() and connection.isAlive():
                libvirt.virEventRunDefaultImpl()
        finally:
            connection.close()

    def _event(
        self, _: Any, domain: Any, event: str, seconds: int, micros: int, details: str | None, opaque: Any
    ) -> None:
        """One event of a QEMU."""
        del seconds, micros, opaque
        if event == "RESUME":
            self._tell(domain, Seen.RUNS)
        elif event == "MIGRATION" and details is not None:
            seen = _MIGRATION.get(json.loads(details).get("status"))
            if seen is not None:
                self._tell(domain, seen)

    def _tell(self, domain: Any, seen: Seen) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._report, domain.name(), domain.UUIDString(), seen)


def _no_message(_: Any, __: Any) -> None:
    """libvirt writes no errors to the agent's standard error output."""
