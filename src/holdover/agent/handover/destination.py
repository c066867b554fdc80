"""A handover on the host that the guest goes to."""

from __future__ import annotations

import asyncio

from holdover.agent.handover.driver import HandoverDriver
from holdover.agent.handover.executor import HandoverExecutor
from holdover.handover.destination_rules import destination_step, receive_message
from holdover.handover.effects import Effects
from holdover.handover.protocol import Answer, Destination, HandoverEvent, Message
from holdover.handover.state_table import DESTINATION
from holdover.handover.states import Event


class DestinationHandover(HandoverDriver[Destination]):
    """The loop of one `Destination`: it handles one message or event at a time.

    Attributes:
        heard_at: When the source's last message arrived, by the event loop's clock.
        doubt: Why this host cannot ask the source whether the handover is over; empty where it can.
    """

    def __init__(
        self,
        handover_id: str,
        peer: str,
        executor: HandoverExecutor,
        state_machine: Destination | None = None,
    ) -> None:
        super().__init__(handover_id, state_machine, executor)
        self.doubt = ""
        self.heard_at = asyncio.get_running_loop().time()
        self._peer = peer

    async def receive(self, message: Message) -> Answer:
        """Carry out the source's message, and return the answer.

        The work is done to its end even if the caller no longer waits for the answer.
        """
        self.doubt = ""
        self.heard_at = asyncio.get_running_loop().time()
        answer = await self._ask(message)
        if answer is None:
            raise RuntimeError(f"{message.kind.value} was not answered")
        return answer

    async def happen(self, event: Event, problem: str = "") -> None:
        """Handle an event that is not a message; return when its work is done, or will be tried again later.

        Raises:
            EventNotAllowed: The event has no meaning in the state that the handover is in by then.
        """
        await self._ask(HandoverEvent(event, problem=problem))

    async def settled(self) -> None:
        """Wait until the work under way is done and on record."""
        if self._runs or self._has_failed:
            await self._ask(None)

    def _step(self, what: HandoverEvent | Message) -> tuple[Destination | None, Effects]:
        if isinstance(what, Message):
            return receive_message(self.state_machine, what, self._peer)
        if self.state_machine is None:
            raise TypeError(f"{what.event.value} without a handover")
        return destination_step(self.state_machine, what)

    def _is_allowed(self, what: HandoverEvent | Message) -> bool:
        if isinstance(what, Message) or self.state_machine is None:
            return True
        return what.event in DESTINATION[self.state_machine.state].follows

    def _is_over(self) -> bool:
        return True  # the source decides what comes next
