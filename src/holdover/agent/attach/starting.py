"""Guests that start on this host by a QEMU that nobody has announced: claimed first, then let run.

Until this host has claimed the guest, the guest's commands wait at its gate. A claim that is refused is made
again and again, as long as the process runs: the other host may finish what it does, or be declared dead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.attach.devices import DeviceMaker
from holdover.agent.guests.retry_pauses import retry_pauses
from holdover.guest.gate import Gate

log = structlog.get_logger()

Admit = Callable[[str, Callable[[], Awaitable[None]]], Awaitable[str]]
"""Claims a guest, and calls the function if no other host has the guest; returns why not, or nothing."""


class StartingGuests:
    """The guests that this host claims now."""

    def __init__(
        self, host: str, maker: DeviceMaker, in_handover: Callable[[str], bool], admit: Admit
    ) -> None:
        self._host = host
        self._maker = maker
        self._in_handover = in_handover
        self._admit = admit
        self._tasks: dict[Attached, asyncio.Task[None]] = {}
        self._problems: dict[Attached, str] = {}
        self._unannounced: dict[Attached, asyncio.TimerHandle] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Why guests do not run here whose QEMUs do."""
        return tuple(self._problems.values())

    def start(self, attached: Attached) -> None:
        """Claim a guest, unless this host does so already."""
        if attached not in self._tasks:
            task = self._tasks[attached] = asyncio.ensure_future(self._start(attached))
            task.add_done_callback(lambda _: self._done(attached))

    def note_command(self, attached: Attached, limit: float) -> None:
        """A guest has sent a command, so it runs: claim it after ``limit`` seconds unless announced."""
        announced = attached.expected or attached.left_to_qemu
        if announced or attached.gate_now is not Gate.INCOMING:
            return
        if attached not in self._tasks and attached not in self._unannounced:
            loop = asyncio.get_running_loop()
            self._unannounced[attached] = loop.call_later(limit, self._start_unannounced, attached)

    def _start_unannounced(self, attached: Attached) -> None:
        del self._unannounced[attached]
        if attached.expected or attached.gate_now is not Gate.INCOMING:
            return
        if not self._in_handover(attached.guest.name):
            log.warning(
                "A guest arrived by a migration that no host has announced; its reservations are not here.",
                guest=attached.guest.name,
            )
            self.start(attached)

    def forget(self, attached: Attached) -> None:
        """Do not claim a guest later; a claim that is under way ends by itself."""
        timer = self._unannounced.pop(attached, None)
        if timer is not None:
            timer.cancel()

    def _done(self, attached: Attached) -> None:
        del self._tasks[attached]
        self._problems.pop(attached, None)

    async def _start(self, attached: Attached) -> None:
        name, process = attached.guest.name, attached.process

        def waits() -> bool:
            moves = attached.left_to_qemu or self._in_handover(name)
            return attached.process is process and attached.gate_now is not Gate.RUNNING and not moves

        async def run() -> None:
            # a device that is being made takes the gate that the guest has now
            async with attached.one_by_one:
                if waits():
                    attached.run()
                    await self._maker.read_and_note(attached)

        for pause in retry_pauses(f"{self._host}/{name}"):
            if not waits():
                return
            why = await self._admit(name, run)
            if not why:
                return
            if attached not in self._problems:
                log.warning("A guest whose QEMU runs here is not let run.", guest=name, reason=why)
            self._problems[attached] = (
                f"guest {name}: its QEMU runs on {self._host}, but its reservation commands do not pass: "
                f"{why}"
            )
            await asyncio.sleep(pause)

    async def close(self) -> None:
        """Claim nothing any more."""
        for timer in self._unannounced.values():
            timer.cancel()
        tasks = tuple(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
