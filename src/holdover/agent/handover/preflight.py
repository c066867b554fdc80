"""The checks before a handover begins: which LUNs the guest has, and whether its tracked state is true."""

from __future__ import annotations

import asyncio
import contextlib

from holdover.agent.guests.device import GuestDevice
from holdover.agent.guests.guest import HostedGuest
from holdover.api.documents import Stale
from holdover.handover.lun_handover import LunHandover
from holdover.handover.lun_work.work import Work, steps_of
from holdover.reservations.own_registration import compare
from holdover.reservations.steps import StepFailed, Steps


async def preflight(guest: HostedGuest, stale: Stale) -> None:
    """Learn which LUNs a guest has, and check what the guest has there, as ``stale`` says.

    Raises:
        StepFailed: Two devices are one LUN, or the tracked state may not be used; nothing was changed.
        PathError: A LUN cannot be asked.
    """
    limit = guest.limits.step
    await asyncio.gather(*(device.learn_designator(limit) for device in guest.devices))
    seen = [str(device.designator) for device in guest.devices]
    for designator in seen:
        if seen.count(designator) > 1:
            raise StepFailed("INQUIRY", f"two devices of guest {guest.name} are one LUN, {designator}")
    moved = [device for device in guest.devices if device.block.migrate_pr]
    if stale is Stale.REFUSE:
        await asyncio.gather(*(_require_true(device, limit) for device in moved))
        return
    doubtful = [device for device in moved if device.block.stale]
    await asyncio.gather(*(device.reread(limit) for device in doubtful))
    if stale is Stale.FORCE:
        for device in doubtful:
            _believe(device)


async def preflight_after_start(device: GuestDevice, limit: float, *, recorded: bool) -> None:
    """Ask the LUN what a guest that runs here has now: others may have changed it while no agent ran.

    ``recorded`` says whether the device's state was on record. If it was, and the nexus belongs to the guest
    alone, then the guest has changed nothing: all its commands come through the agent. This tells the guest's
    own reservation from one that another node holds with the same key.

    Raises:
        StepFailed: The LUN refuses to answer.
        PathError: The LUN cannot be asked.
    """
    if recorded and device.sole_nexus and not device.block.stale:

        def steps() -> Steps[LunHandover]:
            known = LunHandover(str(device.designator), tracked=device.tracked)
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
    difference = await device.run(compare(device.tracked), limit)
    if difference.reason:
        raise StepFailed(
            "READ RESERVATION",
            f"{device.designator}: {difference.reason}, and --stale refuse was given; with --stale reread "
            "what the LUN says is taken",
        )


def _believe(device: GuestDevice) -> None:
    """Use the tracked state although the LUN did not tell whose its reservation is.

    This is done only where a reservation is tracked. PREEMPT then moves it, which never leaves the LUN free.
    The LUN has the last word: it must hold a reservation of that very type. The opposite belief is unsafe: to
    assume that the guest holds no reservation, while its key holds one, could free it.
    """
    if device.block.stale and device.tracked.type is not None:
        device.block.adopt(device.tracked)
