"""Who is registered at a guest's LUNs, as the LUNs say it now. Asking changes nothing."""

from __future__ import annotations

import asyncio

from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.api.documents import GuestRegistrants, LunRegistrants, Registrant
from holdover.reservations.questions import Picture, read_full_status, read_picture
from holdover.reservations.steps import StepFailed, Steps
from holdover.scsi.path import PathError
from holdover.scsi.reservation.key import key_text
from holdover.scsi.reservation.reservation_in import FullStatus


async def registrants_of(guest: HostedGuest, host: str, limit: float) -> GuestRegistrants:
    """The registrants of each of the guest's LUNs; ``limit``: the seconds for each LUN."""
    luns = await asyncio.gather(*(_registrants(device, limit) for device in guest.devices))
    return GuestRegistrants(guest=guest.name, host=host, luns=tuple(luns))


def _status_or_picture() -> Steps[FullStatus | Picture]:
    status = yield from read_full_status()
    if status is not None:
        return status
    return (yield from read_picture())


async def _registrants(device: GuestDevice, limit: float) -> LunRegistrants:
    designator = str(device.designator) if device.designator else device.name
    try:
        found = await device.run(_status_or_picture(), limit)
    except (StepFailed, PathError) as error:
        return LunRegistrants(designator=designator, problem=str(error))
    if isinstance(found, Picture):
        held = found.reservation
        return LunRegistrants(
            designator=designator,
            type=None if held is None else int(held.type),
            registrants=tuple(
                Registrant(key=key_text(key), holder=held is not None and key == held.key)
                for key in found.keys
            ),
        )
    types = [int(each.type) for each in found.descriptors if each.type is not None]
    return LunRegistrants(
        designator=designator,
        type=types[0] if types else None,
        registrants=tuple(
            Registrant(
                key=key_text(each.key),
                holder=each.holder,
                initiator=str(each.transport_id),
                target_port=None if each.all_target_ports else each.relative_target_port,
            )
            for each in found.descriptors
        ),
    )
