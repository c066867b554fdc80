"""Handovers after a restart of the agent: reads them from the journal and continues them.

The gates are shut first, before any command of a guest passes. The work on LUNs waits until it is known which
devices they are.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import msgspec
import structlog

from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.destination import DestinationHandover
from holdover.agent.handover.incoming import Incoming
from holdover.agent.handover.registry import Registry
from holdover.agent.handover.source import SourceHandover
from holdover.guest.gate import Gate
from holdover.handover.protocol import Destination, Source
from holdover.handover.source_rules import after_restart
from holdover.handover.states import DestinationState, SourceState
from holdover.journal.records import HandoverRecord

log = structlog.get_logger()

_WHAT_NEXT = "`holdover journal show FILE` shows it; an agent of the version that wrote it can go on with it"


class RecoveryError(Exception):
    """A handover on record cannot be continued, and it is not known where its guest may run."""


class Recovery:
    """What takes up the handovers of a journal."""

    def __init__(
        self,
        registry: Registry,
        incoming: Incoming,
        source: Callable[[Source, HostedGuest], SourceHandover],
    ) -> None:
        """``source`` makes, and adds, a handover of which this host is the source."""
        self._registry = registry
        self._incoming = incoming
        self._source = source
        self._open: dict[str, Callable[[], None]] = {}

    def restore(self, records: tuple[HandoverRecord, ...]) -> None:
        """Take up the handovers on record; the newest one of each guest is last.

        Raises:
            RecoveryError: The record of an open handover cannot be read.
        """
        machines = []
        for record in records:
            state_machine = _state_machine_of(record)
            if state_machine is None:
                self._remember_unread(record)
            else:
                machines.append(state_machine)
        # An open handover counts as the newest, even if late messages of other handovers came after it.
        for state_machine in sorted(machines, key=lambda each: each.is_open):
            guest = self._registry.guests.get(state_machine.guest)
            if guest is None or _is_unbegun(state_machine):
                self._registry.remember(state_machine)
                if state_machine.is_open:
                    log.error(
                        "The guest of an open handover is not there; add it to the agent's file again.",
                        guest=state_machine.guest,
                        handover_id=state_machine.handover_id,
                        state=state_machine.state.value,
                    )
            elif isinstance(state_machine, Source):
                self._take_up_source(state_machine, guest)
            else:
                self._take_up_destination(state_machine, guest)
        for name, newest in self._registry.newest.items():
            state_machine = newest.state_machine
            if state_machine is not None and state_machine.is_open:
                self._registry.guests[name].move_gates(_gate_of(state_machine))
        for state_machine in machines:
            if not state_machine.is_open and not _is_unbegun(state_machine):
                self._move_unrecorded_gates(state_machine)

    def _move_unrecorded_gates(self, state_machine: Source | Destination) -> None:
        """Set the gates that a handover which is over has left, where no record has them.

        The devices' own records are newer: the guest may have run since. A device has none if its LUN has not
        answered since it came to this host.
        """
        newest = self._registry.newest.get(state_machine.guest)
        if newest is None or newest.state_machine is None or newest.state_machine.is_open:
            return
        for device in self._registry.guests[state_machine.guest].devices:
            if not device.recorded_as and device.block.gate is not _gate_of(state_machine):
                device.move_gate(_gate_of(state_machine))

    def _remember_unread(self, record: HandoverRecord) -> None:
        """Remember a handover that is over by what is beside the unreadable body of its record.

        So a source that has not heard of the end is answered, and the handover does not begin anew.
        """
        self._registry.unreadable.add(record.handover_id)
        with contextlib.suppress(ValueError):  # a state that only newer agents have
            self._registry.remember(_over(record))

    def _take_up_source(self, state_machine: Source, guest: HostedGuest) -> None:
        source = self._source(state_machine, guest)
        source.executor.recall(state_machine)
        source.announce()
        if state_machine.is_open:
            self._open[guest.name] = source.restart

    def _take_up_destination(self, state_machine: Destination, guest: HostedGuest) -> None:
        workshop = self._registry.executor(guest)
        destination = DestinationHandover(
            state_machine.handover_id, state_machine.peer, workshop, state_machine
        )
        destination.heard_at = -math.inf
        workshop.recall(state_machine)
        self._registry.add(guest.name, destination)
        if state_machine.is_open:
            self._open[guest.name] = destination.restart

    def go_on(self, guest: str) -> None:
        """Continue the open handover of a guest, if there is one."""
        restart = self._open.pop(guest, None)
        if restart is not None:
            restart()
            self._incoming.watch_sources()


def _is_unbegun(state_machine: Source | Destination) -> bool:
    return isinstance(state_machine, Destination) and state_machine.unbegun


def _gate_of(state_machine: Source | Destination) -> Gate:
    return after_restart(state_machine) if isinstance(state_machine, Source) else state_machine.gate


def _over(record: HandoverRecord) -> Source | Destination:
    if record.role == "source":
        return Source(record.handover_id, record.guest, record.peer, SourceState(record.state), ())
    return Destination(record.handover_id, record.guest, record.peer, DestinationState(record.state), ())


def _state_machine_of(record: HandoverRecord) -> Source | Destination | None:
    """The handover of a record; None if it is over and the record cannot be read.

    Raises:
        RecoveryError: It is open, and the record cannot be read.
    """
    kind: type[Source | Destination] = Source if record.role == "source" else Destination
    try:
        return msgspec.json.decode(record.body, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        if record.open:
            what = (
                f"the record of handover {record.handover_id} of guest {record.guest} cannot be read: {error}"
            )
            raise RecoveryError(f"{what}; {_WHAT_NEXT}") from error
        log.error(
            "The record of a closed handover cannot be read.",
            guest=record.guest,
            handover_id=record.handover_id,
            reason=str(error),
        )
        return None
