"""A handover on the host that the guest leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from holdover.agent.guests.device import GuestDevice
from holdover.agent.handover.driver import HandoverDriver
from holdover.agent.handover.executor import HandoverExecutor
from holdover.api.client import AgentError
from holdover.guest.added import Added
from holdover.guest.gate import Gate
from holdover.handover.agenda import Activity
from holdover.handover.effects import Effects
from holdover.handover.lun_handover import LunHandover
from holdover.handover.patience import by_the_clock
from holdover.handover.protocol import Answer, Answered, EventNotAllowed, HandoverEvent, Message, Source
from holdover.handover.source_rules import is_allowed, source_step
from holdover.handover.states import Event, MessageKind, SourceState

log = structlog.get_logger()

Send = Callable[[Message], Awaitable[Answer]]
"""Sends the destination a message; raises `AgentError` where no answer came."""

_ANSWERS = {
    Answered.DONE: Event.TOLD,
    Answered.REFUSED: Event.REFUSED,
    Answered.TAKEN: Event.TAKEN,
    Answered.KEPT: Event.KEPT,
    Answered.UNKNOWN: Event.UNREACHED,
}


_REGISTERED_THERE = frozenset({SourceState.CONFIRMING, SourceState.PREPARED})
"""The states in which the destination's answer to the last PREPARE was that the guest's key is registered."""


def _has_added(state_machine: Source) -> bool:
    """Whether the guest runs here and the destination may have registered the guest's key."""
    runs = state_machine.is_open and state_machine.gate is Gate.RUNNING
    return runs and state_machine.state is not SourceState.CHECKING


class SourceHandover(HandoverDriver[Source]):
    """The loop of one `Source`. It runs until the handover is over.

    Attributes:
        commit_sent: Set when this process has sent the message to commit.
    """

    state_machine: Source

    def __init__(self, state_machine: Source, executor: HandoverExecutor, send: Send) -> None:
        super().__init__(state_machine.handover_id, state_machine, executor)
        self._send = send
        self.commit_sent = asyncio.Event()
        self._recheck: int | None = None
        """The position in the spans at which a recheck has begun."""
        self._told: dict[str, tuple[int, ...]] = {}
        """By LUN: the keys that the destination may have registered because of messages of this process."""
        self._began = asyncio.get_running_loop().time()

    def announce(self) -> None:
        """Tell the guest's devices which registrations this handover has made on the destination."""
        state_machine = self.state_machine
        luns = {lun.designator: lun for lun in state_machine.luns} if _has_added(state_machine) else {}
        for device in self.executor.guest.devices:
            lun = luns.get(str(device.designator))
            device.block.added = None if lun is None else self._added(lun)

    def _added(self, lun: LunHandover) -> Added | None:
        told = self._told.get(lun.designator, ())
        keys = tuple(key for key in dict.fromkeys((*told, lun.tracked.key)) if key)
        there = lun.destination
        proven = self.state_machine.state in _REGISTERED_THERE and keys == (lun.tracked.key,)
        return Added(keys, there.count, lun.source.count, lun.others, there.ports, proven) if keys else None

    # -- from outside --------------------------------------------------------------------------------

    def start(self, effects: Effects) -> None:
        """Begin the handover."""
        self._go(effects)

    async def settled(self) -> Source:
        """Wait until the handover is at rest, over or stuck."""
        if self._task is not None and not self._is_at_its_end():
            await self._ask(None)
        return self.state_machine

    async def ask(self, event: Event, problem: str = "") -> Source:
        """Make a request and wait until the handover is at rest, over or stuck.

        Raises:
            EventNotAllowed: The request has no meaning in the state that the handover is in by then.
        """
        happened = HandoverEvent(event, problem=problem)
        if self._is_at_its_end():
            source_step(self.state_machine, happened)
            return self.state_machine
        if self._task is None:
            raise EventNotAllowed(
                f"{event.value}: this agent was restarted and is still asking the guest's LUNs; "
                "ask again in a moment"
            )
        await self._ask(happened)
        return self.state_machine

    def _is_at_its_end(self) -> bool:
        """Whether the handover is over, and nothing is left to put on record."""
        return not self.state_machine.is_open and not self._runs and not self._has_failed

    def guest_changed(self, device: GuestDevice) -> None:
        """The guest has changed its registration or reservation on one LUN."""
        if device.designator is not None:
            self._agenda.add_news(LunHandover(str(device.designator), tracked=device.tracked))
            self._wake.set()

    # -- what this host does differently ---------------------------------------------------------------

    async def _drive(self, first: HandoverEvent | Message | Effects | None) -> None:
        for device in self.executor.guest.devices:
            device.on_guest_change = self.guest_changed
        self.executor.spans.state(self.state_machine.state.value)
        try:
            await super()._drive(first)
        finally:
            for device in self.executor.guest.devices:
                if device.on_guest_change == self.guest_changed:
                    device.on_guest_change = None

    def _step(self, what: HandoverEvent | Message) -> tuple[Source, Effects]:
        if isinstance(what, Message):
            raise TypeError("a source receives no messages")
        return source_step(self.state_machine, what)

    def _is_allowed(self, what: HandoverEvent | Message) -> bool:
        return isinstance(what, HandoverEvent) and is_allowed(self.state_machine, what.event)

    def _is_over(self) -> bool:
        return not self.state_machine.is_open

    def _active(self) -> Activity:
        return Activity.RECHECK if self.state_machine.rechecks else Activity.WORK

    def _due(self) -> tuple[float | None, HandoverEvent | None]:
        lasted = asyncio.get_running_loop().time() - self._began
        happened = by_the_clock(self.state_machine, lasted, self._limits.handover)
        return (None if happened is None else self._limits.recheck), happened

    async def _carry_out(self, effects: Effects) -> None:
        self.announce()
        await super()._carry_out(effects)

    def _is_quiet(self, state_machine: Source) -> bool:
        """Whether this is a recheck of a prepared handover, or its end without any change."""
        if state_machine.rechecks:
            self._recheck = self._mark
        if self._recheck is None or state_machine.rechecks:
            return state_machine.rechecks
        began, self._recheck = self._recheck, None
        is_nothing_new = state_machine == self.executor.written
        if is_nothing_new or state_machine.state is SourceState.LEAVING:
            self.executor.spans.forget_since(began)
        return is_nothing_new

    # -- messages ------------------------------------------------------------------------------------

    async def _deliver(self, message: Message) -> HandoverEvent:
        peer, limit = self.state_machine.peer, self._limits.peer
        is_prepare = message.kind is MessageKind.PREPARE
        if is_prepare:
            self._note_told(message, self._told)
        if message.kind is MessageKind.COMMIT:
            self.commit_sent.set()  # those who wait for that go on in the next turn of the loop
        with self.executor.spans.span(f"message {message.kind.value}"):
            try:
                async with asyncio.timeout(limit):
                    answer = await self._send(message)
            except (AgentError, TimeoutError) as error:
                return self._unreached(str(error) or f"{peer} has not answered within {limit:g} s")
            except Exception as error:
                log.error(
                    "The destination of a handover could not be told.",
                    guest=message.guest,
                    handover_id=message.handover_id,
                    exc_info=error,
                )
                return self._unreached(f"{type(error).__name__}: {error}")
        if answer.number != message.number:
            return self._unreached(f"{peer} has answered message {answer.number}, not {message.number}")
        self._patience.reached()
        if is_prepare and answer.kind is Answered.DONE:
            self._note_told(message, {})
        problem = answer.problem and f"{peer}: {answer.problem}"
        return HandoverEvent(_ANSWERS[answer.kind], answer.luns, problem)

    def _note_told(self, message: Message, before: dict[str, tuple[int, ...]]) -> None:
        """The destination may have registered the keys of this PREPARE, or those of one ``before``."""
        self._told = {
            lun.designator: (lun.tracked.key, *before.get(lun.designator, ())) for lun in message.luns
        }
        self.announce()

    def _unreached(self, why: str) -> HandoverEvent:
        now = asyncio.get_running_loop().time()
        return HandoverEvent(self._patience.unreached(now), problem=why)
