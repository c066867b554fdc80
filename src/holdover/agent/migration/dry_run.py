"""A rehearsal of a migration: checks both hosts and each LUN, says what would be done, changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from holdover.agent.guests.guest import HostedGuest
from holdover.agent.migration.monitors import Monitors
from holdover.api.client import AgentError
from holdover.api.documents import GuestState
from holdover.api.migration_documents import MigrationState, QemuAction, QemuPlace, QemuRequest
from holdover.api.peer_hosts import PeerClient
from holdover.migrate.migration import Migration
from holdover.qemu.monitor import QemuError
from holdover.qemu.outgoing import OutgoingQemu
from holdover.reservations.own_registration import compare
from holdover.reservations.steps import StepFailed
from holdover.scsi.path import PathError


async def dry_run(
    migration: Migration,
    guest: HostedGuest,
    monitors: Monitors,
    peer: Callable[[], PeerClient],
    state: MigrationState,
) -> MigrationState:
    """Check everything that can be checked without a change; returns ``state`` with what was found.

    Raises:
        AgentError, QemuError: The migration would be refused.
    """
    found = [f"both agents answer; {migration.destination} is a peer of {migration.source}"]
    known = (await peer().guests()).guests
    found += await _luns(migration, guest, next((each for each in known if each.name == guest.name), None))
    found += await _qemus(migration, monitors, peer())
    found.append(
        "nothing was changed; without --dry-run: register the guest's keys on "
        f"{migration.destination}, copy the memory, stop the guest, move the reservations, run it on "
        f"{migration.destination}"
    )
    return msgspec.structs.replace(state, checks=tuple(found))


async def _luns(migration: Migration, guest: HostedGuest, there: GuestState | None) -> list[str]:
    found = []
    limit = guest.limits.step
    for device in guest.devices:
        try:
            await device.learn_designator(limit)
            difference = await device.run(compare(device.tracked), limit) if device.block.migrate_pr else None
        except (PathError, StepFailed) as error:
            raise AgentError(f"{device.name}: {error}") from error
        if difference is None:
            what = "migrate-pr=off, its reservations stay"
        elif device.block.stale or difference.reason:
            what = f"it is read anew first: {difference.reason or 'what is tracked may be out of date'}"
        else:
            what = "what is tracked is what the LUN says"
        found.append(f"LUN {device.designator}: {what}")
    if there is None or not there.devices:
        return [*found, f"{migration.destination} finds the LUNs when the migration begins"]
    here = {str(device.designator): device.block.migrate_pr for device in guest.devices}
    theirs = {each.designator: each.migrate_pr for each in there.devices}
    for designator in here.keys() - theirs.keys():
        if None not in theirs:
            raise AgentError(f"{migration.destination} has no LUN {designator} for guest {guest.name}")
    for designator, ours in here.items():
        if theirs.get(designator, ours) is not ours:
            raise AgentError(f"LUN {designator}: migrate-pr differs between both hosts")
    for each in there.devices:
        if each.gate not in ("incoming", "departed"):
            raise AgentError(
                f"guest {guest.name} is not expected on {migration.destination}: the gate of {each.drive} "
                f"there is {each.gate}"
            )
    return [*found, f"{migration.destination} has the same {len(here)} LUNs, and expects the guest"]


async def _qemus(migration: Migration, monitors: Monitors, peer: PeerClient) -> list[str]:
    async with await monitors.connect(migration.guest) as monitor:
        runs = await OutgoingQemu(monitor).check()
    found = [f"QEMU on {migration.source} {'runs' if runs else 'has paused'} the guest"]
    answer = await peer.qemu(
        QemuRequest(
            guest=migration.guest,
            migration_id=migration.migration_id,
            action=QemuAction.CHECK,
            options=migration.options,
        )
    )
    if answer.place not in (QemuPlace.WAITING, QemuPlace.LISTENING):
        raise QemuError(f"QEMU on {migration.destination} is {answer.place.value}")
    listens = "listens already" if answer.place is QemuPlace.LISTENING else "will be told where to listen"
    return [*found, f"QEMU on {migration.destination} waits for the guest; it {listens}"]
