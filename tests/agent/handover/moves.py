"""How tests move a guest that holds a reservation: by the requests of a handover, or by a migration job."""

from __future__ import annotations

import pytest

from holdover.scsi.cdbs.opcodes import ReservationType
from tests.agent.hosts import GUEST, WRITE, San

each_type = pytest.mark.parametrize("kind", ReservationType, ids=lambda kind: kind.short_name)
WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


async def reserved(set_up: San, kind: ReservationType = WERO) -> None:
    guest = set_up.guest_on("host-a")
    await guest.register(aptpl=True)
    await guest.reserve(kind)
    await guest.must(WRITE)


async def move(set_up: San, source: str = "host-a", destination: str = "host-b", name: str = "h1") -> None:
    client = set_up.clients[source]
    assert (await client.prepare(GUEST, name, set_up.apis[destination])).state == "prepared"
    assert (await client.commit(GUEST, name)).state == "committed"
    assert (await client.finish(GUEST, name)).state == "gone"


async def move_by_job(set_up: San, source: str = "host-a", destination: str = "host-b", _: str = "") -> None:
    result = await set_up.orchestrator(source, destination).run(None)
    assert result.warnings == ()
