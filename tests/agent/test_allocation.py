"""A LUN behind a hypervisor that refuses allocation lengths above 8192, as QEMU's pr-manager does."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.cli.pr.pr import ask
from holdover.scsi.cdbs.opcodes import ReservationType
from tests.agent.hosts import GUEST, KEY, WRITE, san

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


def test_everything_is_asked_and_moved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            set_up.served[0].most = 8192
            guest, client = set_up.guest_on("host-a"), set_up.clients["host-a"]
            await guest.register()
            await guest.reserve(WERO)
            # what was tracked is read again from the LUN when the agent has begun anew
            await set_up.stop("host-a")
            await set_up.start("host-a")
            assert (await client.prepare(GUEST, "h1", set_up.apis["host-b"])).state == "prepared"
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert (await client.finish(GUEST, "h1")).state == "gone"
            assert await set_up.registrants() == {"host-b": (KEY, True)}
            await set_up.guest_on("host-b").must(WRITE)
            for what in ("READ_KEYS", "READ_RESERVATION", "READ_FULL_STATUS", "REPORT_CAPABILITIES"):
                await asyncio.to_thread(ask, set_up.url(), what, "iqn.2026-11.org.example:op", True)

    asyncio.run(test())
    assert capsys.readouterr().out.count(f"{KEY:#x}") == 3
