"""The list of tracked guests: a guest is on it before the journal has its first registration."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from holdover.agent.libvirt.tracked_guests import ListingJournal, TrackedGuests
from holdover.config.agent_file import AgentConfig
from holdover.guest.gate import Gate
from holdover.guest.scsi_block import BlockState
from holdover.journal.journal import JournalError
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import DeviceRecord
from holdover.reservations.tracked import Tracked


def tracked_in(folder: Path) -> TrackedGuests:
    config = AgentConfig(name="host-a", initiator="iqn.2026-11.org.example:host-a", state_dir=str(folder))
    return TrackedGuests(config)


def record(key: int) -> DeviceRecord:
    state = BlockState(True, Gate.RUNNING, Tracked(key), stale=False)
    return DeviceRecord(guest="db1", designator="naa.1", drive="disk0", body=msgspec.json.encode(state))


@pytest.mark.parametrize("call", ["put", "note"])
@pytest.mark.parametrize("key", [0, 5])
def test_a_guest_with_a_registration_is_listed(tmp_path: Path, call: str, key: int) -> None:
    async def test() -> None:
        tracked = tracked_in(tmp_path)
        journal = MemoryJournal()
        await getattr(ListingJournal(journal, tracked), call)(record(key))
        assert tracked.has("db1") is (key != 0)
        assert len(journal.load().devices) == 1

    asyncio.run(test())


@pytest.mark.parametrize("call", ["put", "note"])
def test_what_cannot_be_listed_is_not_put_on_record(tmp_path: Path, call: str) -> None:
    async def test() -> None:
        (tmp_path / "state").write_text("no folder")
        tracked = tracked_in(tmp_path / "state")
        journal = MemoryJournal()
        with pytest.raises(JournalError, match="cannot be written"):
            await getattr(ListingJournal(journal, tracked), call)(record(5))
        assert not journal.load().devices

    asyncio.run(test())
