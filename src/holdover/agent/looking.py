"""What is looked at before a handover begins: which LUNs a guest has, and whether what is tracked is true."""

from __future__ import annotations

import asyncio
import contextlib

from holdover.agent.api import Stale
from holdover.agent.device import GuestDevice
from holdover.agent.guest import HostedGuest
from holdover.handover.adopt import compare
from holdover.handover.moving import MovingLun
from holdover.handover.steps import StepFailed, Steps
from holdover.handover.work import Work, steps_of

__all__ = ["look_after_start", "look_again"]


async def look_again(guest: HostedGuest, stale: Stale) -> None:
    """Ask the LUNs of a guest who they are, and what the guest has there, as ``stale`` says.

    Raises:
        StepFailed: Two devices are one LUN, or what is tracked may not be used; nothing was changed.
        PathError: A LUN cannot be asked.
    """
    limit = guest.limits.step
    await asyncio.gather(*(device.learn_designator(limit) for device in guest.devices))
    seen = [str(device.designator) for device in guest.devices]
    for designator in seen:
        if seen.count(designator) > 1:
            raise StepFailed("INQUIRY", f"two devices of guest {guest.name} are one LUN, {designator}")
    moving = [device for device in guest.devices if device.block.migrate_pr]
    if stale is Stale.REFUSE:
        await asyncio.gather(*(_require_true(device, limit) for device in moving))
        return
    doubtful = [device for device in moving if device.block.stale]
    await asyncio.gather(*(device.reread(limit) for device in doubtful))
    if stale is Stale.FORCE:
        for device in doubtful:
            _believe(device)


async def look_after_start(device: GuestDevice, limit: float, *, recorded: bool) -> None:
    """Ask the LUN what a guest that runs here has by now: while no agent looked, others may have changed it.

    ``recorded``: what the device knows was on record. The guest itself has changed nothing then where its
    nexus is its own: its commands come through the agent alone. So its reservation is told from one that
    another node with the same key holds.

    Raises:
        StepFailed: The LUN refuses to say.
        PathError: It cannot be asked.
    """
    if recorded and device.sole_nexus and not device.block.stale:

        def steps() -> Steps[MovingLun]:
            known = MovingLun(str(device.designator), tracked=device.tracked, source_nexuses=device.nexuses)
            return steps_of(Work.CHECK, known, stale=device.block.stale)

        with contextlib.suppress(StepFailed):
            await device.ascertain(steps, limit, lambda lun: lun.tracked)
            return
    device.block.mark_stale()
    await device.reread(limit)


async def _require_true(device: GuestDevice, limit: float) -> None:
    if device.block.stale:
        raise StepFailed(
            "READ KEYS",
            f"what is tracked of {device.designator} may be out of date, and --stale refuse was given; with "
            "--stale reread the LUN is asked",
        )
    difference = await device.run(compare(device.tracked, nexuses=device.nexuses), limit)
    if difference.reason:
        raise StepFailed(
            "READ RESERVATION",
            f"{device.designator}: {difference.reason}, and --stale refuse was given; with --stale reread "
            "what the LUN says is taken",
        )


def _believe(device: GuestDevice) -> None:
    """Go on with what was tracked where the LUN did not tell whose its reservation is.

    Only where a reservation was tracked: it is then moved by PREEMPT, which frees nothing, and the LUN has
    the last word, as it must hold that very type. To believe that the guest holds none, while its key holds
    one, could free it.
    """
    if device.block.stale and device.tracked.type is not None:
        device.block.adopt(device.tracked)
