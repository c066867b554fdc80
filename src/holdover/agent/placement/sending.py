"""Sends a guest that does not run on this host to the host on which it will be started."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from holdover.agent.attach.attached_guest import Attached
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import HandoverProblem
from holdover.agent.migration.guest_handovers import GuestHandovers
from holdover.agent.migration.monitors import Monitors, NoMonitor
from holdover.agent.placement.refusal import ColdStartRefused
from holdover.api.migration_documents import SendRequest
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.handover.states import Event
from holdover.qemu.monitor import MonitorAbsent, QemuError

log = structlog.get_logger()

_ENDED = frozenset({"postmigrate", "shutdown"})
"""The run states of a QEMU whose guest does not run any more."""


class Sending:
    """Hands guests of this host over to hosts that ask for them."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        guests: dict[str, HostedGuest],
        handovers: GuestHandovers,
        monitors: Monitors,
        attached: Callable[[str], Attached | None],
    ) -> None:
        self._config = config
        self._guests = guests
        self._handovers = handovers
        self._monitors = monitors
        self._attached = attached

    async def send(self, request: SendRequest, to: str) -> None:
        """Hand a guest that does not run here over to ``to``.

        Raises:
            ColdStartRefused: It runs here, or the handover did not succeed and was rolled back.
        """
        name, here = request.guest, self._config().name
        guest, attached = self._guests.get(name), self._attached(name)
        if guest is None or attached is None or attached.gate_now is not Gate.RUNNING:
            raise ColdStartRefused(f"guest {name} is not on {here}")
        await self.require_not_running(guest)
        began = time.monotonic()
        try:
            await self._handovers.prepare(name, request.handover_id, to)
            await self.require_not_running(guest)
            await self._handovers.ask(name, request.handover_id, Event.ASKED_COMMIT)
        except (HandoverProblem, ColdStartRefused) as error:
            await self._roll_back(name, request.handover_id, to)
            raise ColdStartRefused(str(error)) from error
        try:
            await self._handovers.ask(name, request.handover_id, Event.ASKED_FINISH)
        except HandoverProblem as error:
            raise ColdStartRefused(
                f"guest {name}'s reservations are on {to}, and {here} could not finish: {error}; then there: "
                f"holdover handover finish {name}"
            ) from error
        log.info(
            "A guest that does not run was handed over.", guest=name, to=to, seconds=time.monotonic() - began
        )

    async def _roll_back(self, name: str, handover_id: str, to: str) -> None:
        state = self._handovers.summary(name)
        if state is None or (state.handover_id, state.peer) != (handover_id, to):
            return
        try:
            await self._handovers.ask(name, handover_id, Event.ASKED_ROLL_BACK)
        except HandoverProblem as error:
            raise ColdStartRefused(f"{error}; holdover handover status {name} says what is true") from error

    async def require_not_running(self, guest: HostedGuest) -> None:
        """Check that no QEMU of a guest runs on this host.

        Raises:
            ColdStartRefused: One runs, or it is not known.
        """
        here, name = self._config().name, guest.name
        stop = f"shut it down there, or move it while it runs: holdover migrate {name}"
        if guest.target is not None and guest.target.sessions():
            initiator = guest.target.sessions()[0].initiator
            raise ColdStartRefused(
                f"guest {name} runs on {here}: {initiator} is logged in to its export; {stop}"
            )
        attached = self._attached(name)
        if attached is not None and attached.process is not None and not attached.process.ended:
            raise ColdStartRefused(
                f"guest {name} runs on {here}: its QEMU is process {attached.process.pid}; {stop}"
            )
        try:
            async with await self._monitors.connect(name) as monitor:
                state = await monitor.query_status()
        except (NoMonitor, MonitorAbsent):
            return
        except QemuError as error:
            raise ColdStartRefused(f"whether guest {name} runs on {here} is not known: {error}") from error
        if state not in _ENDED:
            raise ColdStartRefused(f"guest {name} is on {here}: its QEMU is {state}; {stop}")
