"""The I_T nexuses of an export's sessions at the LUN: one for all of them, or one for each initiator name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdover.agent.guests.lun_nexus import LunNexus
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import Path
from holdover.scsi.reservation.transport_id import IscsiTransportID


class ExportNexuses:
    """The I_T nexuses to one LUN that serve one export.

    Attributes:
        losing: How many sessions have ended whose reservations are still being freed.
    """

    def __init__(
        self, path: Path, open_path: Callable[[str], Path], observe: Callable[[Command, Response], None]
    ) -> None:
        """``path`` is the guest's own nexus, and ``open_path`` makes the path for an initiator name.
        ``observe`` is called with the responses to the agent's own commands on ``path``."""
        self.losing = 0
        self._guest = LunNexus(path, observe)
        self._open_path = open_path
        self._named: dict[str, LunNexus] = {}
        self._all_lost = asyncio.Event()

    def of(self, nexus: ITNexus, *, alone: bool) -> LunNexus:
        """The nexus of a session to the LUN; ``alone``: the guest is one nexus for all initiator names."""
        if alone or not isinstance(nexus.initiator, IscsiTransportID):
            return self._guest
        name = nexus.initiator.name
        shared = self._named.get(name)
        if shared is None:
            shared = self._named[name] = LunNexus(self._open_path(name))
        shared.sessions.add(nexus)
        return shared

    async def lost(self) -> None:
        """Wait until `losing` is 0."""
        while self.losing:
            await self._all_lost.wait()

    async def lose(self, nexus: ITNexus) -> None:
        """Free what a session that has ended had reserved.

        The nexus of an initiator name ends with the last session of that name.
        """
        self.losing += 1
        self._all_lost.clear()
        try:
            await self._lose(nexus)
        finally:
            self.losing -= 1
            if not self.losing:
                self._all_lost.set()

    async def _lose(self, nexus: ITNexus) -> None:
        name = nexus.initiator.name if isinstance(nexus.initiator, IscsiTransportID) else ""
        shared = self._named.get(name)
        if shared is None or nexus not in shared.sessions:
            await self._guest.lose(nexus)
            return
        shared.sessions.remove(nexus)
        await shared.lose(nexus)
        if not shared.sessions and not shared.reserve.abandoned:
            del self._named[name]
            await shared.close()

    async def reset(self, attention: Response) -> None:
        """Free what any session has reserved, and owe the sessions of each initiator name a unit attention.

        Raises:
            PathError, StepFailed: The LUN could not be freed.
        """
        for shared in (self._guest, *self._named.values()):
            await shared.reset()
        for shared in self._named.values():
            shared.owe(attention)

    async def close(self) -> None:
        """Close all paths."""
        for shared in (self._guest, *self._named.values()):
            await shared.close()
