"""The QEMU that takes a guest: it listens, and it never runs the guest before it is told to.

A QEMU that waits with `-incoming` takes the command `stop` as the option `-S`: when the guest has arrived, it
stands still until `cont`. So whoever moves the guest's reservations decides when the guest runs.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import msgspec

from holdover.qemu.monitor import MonitorLost, QemuError, QemuMonitor, QemuRefused, QmpEvent, QmpTime
from holdover.qemu.stream import Side, StreamSettings, set_up_stream

_INTERVAL = 0.005
_END_SECONDS = 10.0
_ENDS = frozenset({"completed", "failed", "postcopy-active"})
_WILDCARDS = frozenset({"", "0.0.0.0", "::", "*"})  # noqa: S104 - compared with, not listened at


class NotWaiting(QemuError):
    """The QEMU does not wait for a guest."""


class PortTaken(QemuError):
    """The QEMU cannot listen at an address."""


class _Socket(msgspec.Struct, frozen=True):
    type: str = "inet"
    host: str = ""
    port: str = ""


class _Incoming(msgspec.Struct, frozen=True, rename="kebab"):
    status: str = "none"
    error_desc: str = ""
    socket_address: tuple[_Socket, ...] = ()


@dataclass(frozen=True, slots=True)
class Arrival:
    """How far a QEMU is: its run state, its migration status, and its last error."""

    run_state: str
    status: str
    error: str = ""


_ARRIVED = Arrival("paused", "completed")
"""What the event "completed" says, since QEMU sends it after it has set the run state. So there need be no
question for which the guest would stand still."""


class IncomingQemu:
    """One QEMU that takes a guest."""

    def __init__(self, monitor: QemuMonitor) -> None:
        self.monitor = monitor
        self._since = len(monitor.events)
        self._tells = False
        """Whether this connection has an event of everything that has happened to the guest."""

    async def require_waiting(self) -> None:
        """Check that it waits for a guest; changes nothing.

        Raises:
            NotWaiting: It does not.
        """
        state = await self.monitor.query_status()
        if state != "inmigrate":
            raise NotWaiting(
                f"{self.monitor.name} does not wait for a guest: its state is {state}; start it with "
                "-incoming defer"
            )

    async def address(self, own: str) -> str:
        """Where it listens, as the source writes it; empty if it does not listen yet (`-incoming defer`).

        ``own`` replaces an address that stands for all addresses of this host.
        """
        answer = await self.monitor.execute("query-migrate")
        try:
            sockets = msgspec.convert(answer, _Incoming).socket_address
        except msgspec.ValidationError as error:
            raise QemuError(f"{self.monitor.name}: its answer to query-migrate is not valid") from error
        for each in sockets:
            if each.type == "inet":
                host = own if each.host in _WILDCARDS else each.host
                return uri_of(host, int(each.port))
        return ""

    async def hold(self, settings: StreamSettings) -> None:
        """Keep it from running the guest by itself, and set its side of the stream."""
        await self.monitor.execute("stop")
        await set_up_stream(self.monitor, settings, Side.DESTINATION)
        self._tells = True

    async def listen(self, address: str, port: int) -> str:
        """Listen; returns the address as the source writes it.

        Raises:
            PortTaken: It cannot listen there.
        """
        uri = uri_of(address, port)
        try:
            await self.monitor.execute("migrate-incoming", {"uri": uri})
        except QemuRefused as error:
            raise PortTaken(str(error)) from error
        return uri

    async def look(self) -> Arrival:
        """How far it is now."""
        status, run_state = await asyncio.gather(self.monitor.query_migrate(), self.monitor.query_status())
        return Arrival(run_state, status.status, status.error or "")

    async def wait(self) -> Arrival:
        """Wait until the guest has arrived, or cannot arrive any more.

        A guest that has just arrived stands still, after `hold`.

        Raises:
            MonitorLost: QEMU has ended, as it does when the stream breaks off.
        """
        if self._tells:
            # no question: QEMU loads the guest, which stands still
            event = await self.monitor.wait_event(_ends, since=self._since)
            if event.migration_status == "completed":
                return _ARRIVED
        if any(event.migration_status == "completed" for event in self.monitor.events[self._since :]):
            return _ARRIVED
        arrival = await self.look()
        while arrival.run_state == "inmigrate" and arrival.status not in ("completed", "failed"):
            if arrival.status == "postcopy-active":
                await asyncio.sleep(_INTERVAL)  # no event tells that the guest's devices have been loaded
            else:
                event = await self.monitor.wait_event(_ends, since=self._since)
                if event.migration_status == "completed":
                    return _ARRIVED
            arrival = await self.look()
            if arrival.status == "completed" and arrival.run_state == "inmigrate":
                await asyncio.sleep(_INTERVAL)
                arrival = await self.look()
        return arrival

    async def run(self) -> QmpTime | None:
        """Run the guest; returns the time of RESUME, None if that came before this connection.

        A guest that runs already runs on.
        """
        await self.monitor.execute("cont")
        resumed = self._resumed()
        if resumed is None and await self.monitor.query_status() == "running":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    event = await self.monitor.wait_event(lambda each: each.name == "RESUME")
                    return event.time
        return resumed

    def _resumed(self) -> QmpTime | None:
        return next((each.time for each in self.monitor.events if each.name == "RESUME"), None)

    async def end(self) -> None:
        """End it, and wait until it has ended.

        Raises:
            QemuError: It has not ended.
        """
        with contextlib.suppress(QemuError):
            await self.monitor.execute("quit", timeout=_END_SECONDS)
        with contextlib.suppress(TimeoutError, MonitorLost):
            async with asyncio.timeout(_END_SECONDS):
                await self.monitor.wait_event(lambda _: False)
        if not await self.monitor.is_gone():
            raise QemuError(
                f"{self.monitor.name} was told to end and has not ended within {_END_SECONDS:g} s"
            )


def uri_of(host: str, port: int) -> str:
    """An address as QEMU writes it."""
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def _ends(event: QmpEvent) -> bool:
    return event.migration_status in _ENDS
