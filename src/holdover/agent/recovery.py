"""Handovers after a restart of the agent: what the journal has, and how it goes on.

Gates are shut first, before any command of a guest passes. What is then done on LUNs waits until it is known
which devices they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import structlog

from holdover.agent.destination_handover import DestinationHandover
from holdover.agent.guest import HostedGuest
from holdover.agent.incoming import Incoming
from holdover.agent.registry import Registry
from holdover.agent.source_handover import SourceHandover
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import Destination, Source
from holdover.handover.states import SourceState
from holdover.journal.records import HandoverRecord

__all__ = ["Recovery", "RecoveryError"]

log = structlog.get_logger()

_WHAT_NEXT = "`holdover journal show FILE` shows it; an agent of the version that wrote it can go on with it"


class RecoveryError(Exception):
    """A handover on record cannot be gone on with, and nothing is known of where its guest may run."""


class Recovery:
    """Takes up the handovers of a journal."""

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
        """Take up what is on record, each guest's newest last.

        Raises:
            RecoveryError: One that is open cannot be read.
        """
        machines = [machine for record in records if (machine := _machine_of(record)) is not None]
        # an open one counts, whatever late message has been heard of others since
        for machine in sorted(machines, key=lambda each: each.is_open):
            guest = self._registry.guests.get(machine.guest)
            if guest is None:
                self._registry.remember(machine)
                if machine.is_open:
                    log.error(
                        "the guest of an open handover is not there; add it to the agent's file again",
                        guest=machine.guest,
                        handover=machine.handover,
                        state=machine.state.value,
                    )
            elif isinstance(machine, Source):
                self._take_up_source(machine, guest)
            else:
                self._take_up_destination(machine, guest)
        for name, newest in self._registry.newest.items():
            # of one that is over the devices' own records say more: the guest may have run since
            if newest.machine is not None and newest.machine.is_open:
                self._registry.guests[name].move_gates(newest.machine.gate)

    def _take_up_source(self, machine: Source, guest: HostedGuest) -> None:
        source = self._source(machine, guest)
        source.workshop.recall(machine)
        if machine.is_open:
            self._open[guest.name] = lambda: source.restart(_news(machine, guest))

    def _take_up_destination(self, machine: Destination, guest: HostedGuest) -> None:
        workshop = self._registry.workshop(guest)
        destination = DestinationHandover(machine.handover, machine.peer, workshop, machine)
        destination.heard_at = -math.inf
        workshop.recall(machine)
        self._registry.add(guest.name, destination)
        if machine.is_open:
            self._open[guest.name] = destination.restart

    def go_on(self, guest: str) -> None:
        """Go on with the open handover of a guest, if there is one."""
        restart = self._open.pop(guest, None)
        if restart is not None:
            restart()
            self._incoming.watch_sources()


def _machine_of(record: HandoverRecord) -> Source | Destination | None:
    kind: type[Source | Destination] = Source if record.role == "source" else Destination
    try:
        return msgspec.json.decode(record.body, type=kind)
    except (msgspec.DecodeError, ValueError) as error:
        what = f"handover {record.handover} of guest {record.guest} is on record and makes no sense: {error}"
        if record.open:
            raise RecoveryError(f"{what}; {_WHAT_NEXT}") from error
        log.error(what)
        return None


def _news(machine: Source, guest: HostedGuest) -> tuple[MovingLun, ...]:
    """LUNs on which the guest has changed something that had not been noted in the handover."""
    if machine.state is not SourceState.PREPARED:
        return ()
    tracked = {str(device.designator): device.tracked for device in guest.devices}
    return tuple(
        MovingLun(lun.designator, tracked=tracked[lun.designator])
        for lun in machine.luns
        if tracked.get(lun.designator, lun.tracked) != lun.tracked
    )
