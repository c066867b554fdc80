"""Takes what a guest has on its LUNs from a host that is dead, where no record of a handover exists.

READ FULL STATUS tells what the guest had by the dead host. From that this host makes the message by which
the dead host would have prepared a handover, and then takes it, as `holdover handover take` does. So all
rules of a handover without its source hold here too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import structlog

from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.agent.handover.answers import HandoverProblem
from holdover.agent.handover.handovers import Handovers
from holdover.agent.placement.refusal import ColdStartRefused
from holdover.api.documents import PeerMessage
from holdover.api.version import API_VERSION
from holdover.handover.lun_handover import LunHandover, Registrations
from holdover.handover.protocol import Answered, Message
from holdover.handover.states import Event, MessageKind
from holdover.placement.left_behind import LeftBehind, NotKnown, left_behind
from holdover.reservations.questions import active_aptpl, read_full_status
from holdover.reservations.steps import StepFailed
from holdover.reservations.tracked import Tracked
from holdover.scsi.path import PathError

log = structlog.get_logger()


class Taking:
    """Takes guests from dead hosts."""

    def __init__(
        self, handovers: Handovers, initiator: Callable[[str], str], spare_key: Callable[[], int]
    ) -> None:
        """``initiator`` returns the initiator name that a peer said last; empty if it never said one."""
        self._handovers = handovers
        self._initiator = initiator
        self._spare_key = spare_key

    async def take(
        self, guest: HostedGuest, handover_id: str, dead: Collection[str], living: Collection[str]
    ) -> str:
        """Take what a guest has left by the hosts ``dead``; ``living`` are the initiator names of all others.

        Returns the host that it was taken from; empty if nothing was left on any LUN.

        Raises:
            ColdStartRefused: It cannot be taken; the message says why, what is true and what to do.
        """
        names = [self._initiator(host) for host in dead]
        try:
            known = set(names) if all(names) else None
            limit = guest.limits.step
            found = {each: await self._left(each, living, known, limit) for each in guest.devices}
        except (PathError, StepFailed, NotKnown) as error:
            raise ColdStartRefused(
                f"what guest {guest.name} has left on its LUNs is not known: {error}; nothing was changed"
            ) from error
        ports = {left.port for left in found.values() if left.port}
        if not ports:
            return ""
        source = next(
            (host for host in dead if any(p.startswith(f"{self._initiator(host)},") for p in ports)), ""
        ) or next(iter(dead))
        await self._take(guest, handover_id, source, found)
        return source

    async def _left(
        self, device: GuestDevice, living: Collection[str], dead: Collection[str] | None, limit: float
    ) -> LeftBehind:
        await device.learn_designator(limit)
        if not device.block.migrate_pr:
            return LeftBehind(Tracked())
        status = await device.run(read_full_status(), limit)
        if status is None:
            raise NotKnown(f"{device.name} has no READ FULL STATUS, so it does not tell whose keys it has")
        aptpl = await device.run(active_aptpl(False), limit)
        return left_behind(status, device.port, living, dead, aptpl=aptpl)

    async def _take(
        self, guest: HostedGuest, handover_id: str, source: str, found: dict[GuestDevice, LeftBehind]
    ) -> None:
        message = Message(
            MessageKind.PREPARE,
            handover_id,
            guest.name,
            1,
            tuple(self._lun(device, left) for device, left in found.items()),
            guest.machine_type,
        )
        peer_message = PeerMessage(version=API_VERSION, host=source, message=message)
        answer = await self._handovers.receive(peer_message, source)
        if answer.kind is not Answered.DONE:
            raise ColdStartRefused(
                f"what guest {guest.name} has by {source} is not taken: {answer.problem}; holdover handover "
                f"status {guest.name} says what is true"
            )
        try:
            await self._handovers.take(guest.name, handover_id)
            await self._handovers.ask(guest.name, handover_id, Event.ASKED_FINISH)
        except HandoverProblem as error:
            raise ColdStartRefused(
                f"what guest {guest.name} has by {source} is not taken: {error}; then: holdover handover "
                f"take {guest.name}, or holdover handover rollback {guest.name} --alone"
            ) from error
        log.warning(
            "A guest was taken from a dead host.", guest=guest.name, source=source, handover_id=handover_id
        )

    def _lun(self, device: GuestDevice, left: LeftBehind) -> LunHandover:
        return LunHandover(
            str(device.designator),
            migrate_pr=device.block.migrate_pr,
            aptpl=left.tracked.aptpl,
            tracked=left.tracked,
            source_spare=self._spare_key(),
            destination_spare=self._spare_key(),
            fresh_spare=self._spare_key(),
            port=left.port,
            source=Registrations(ports=(left.port,) if left.port else ()),
            shared=left.tracked.key in left.others,
            others=left.others,
        )
