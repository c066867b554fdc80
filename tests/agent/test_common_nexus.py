"""Both hosts have one InitiatorName: the handover is refused with both names, and nothing of it is left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from holdover.agent.guests.device import GuestDevice
from holdover.migrate.result import MigrateFailed
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, KEY, WRITE, san


@pytest.mark.parametrize("ports_known", [True, False], ids=["by the login", "by the LUN"])
def test_hosts_with_one_initiator_name_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ports_known: bool
) -> None:
    if not ports_known:  # as with a disk of the host
        monkeypatch.setattr(GuestDevice, "port", "")

    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.clients["host-b"].guests()  # it has begun, and can be ended
            await set_up.stop("host-b")
            name = set_up.configs["host-a"].initiator
            set_up.configs["host-b"] = replace(set_up.configs["host-b"], initiator=name)
            await set_up.start("host-b")
            await reserved(set_up)
            with pytest.raises(MigrateFailed, match="host-a and host-b are one and the same nexus") as failed:
                await set_up.orchestrator().run(None)
            assert not failed.value.in_doubt
            assert "stays on host-a with its reservations" in failed.value.now
            state = await set_up.clients["host-a"].handover(GUEST)
            assert (state.state, state.open) == ("stayed", False)
            assert (await set_up.clients["host-b"].guest(GUEST)).handover_id is None
            assert await set_up.registrants() == {"host-a": (KEY, True)}
            await set_up.guest_on("host-a").must(WRITE)
            # and the next one begins at once
            with pytest.raises(MigrateFailed, match="one and the same nexus"):
                await set_up.orchestrator().run(None)

    asyncio.run(test())
