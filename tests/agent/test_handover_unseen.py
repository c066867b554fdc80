"""What a handover registers on the destination: the guest does not see it, and an agent that begins anew
knows whose it is."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.agent.guests.device import GuestDevice
from holdover.agent.handover.preflight import preflight_after_start
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command
from holdover.scsi.reservation.reservation_in import FullStatus, ReadKeys
from holdover.scsi.reservation.reservation_out import in_command, out_command
from tests.agent.hosts import GUEST, KEY, Fate, Initiator, San, san

WERO = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY
OTHER = 0xBEE


async def keys_seen(guest: Initiator) -> list[int]:
    data = (await guest.must(in_command(InServiceAction.READ_KEYS))).data_in
    status = (await guest.must(in_command(InServiceAction.READ_FULL_STATUS))).data_in
    found = sorted(ReadKeys.decode(data).keys)
    assert sorted(each.key for each in FullStatus.decode(status).descriptors) == found
    return found


async def prepared(set_up: San) -> Initiator:
    guest = set_up.guest_on("host-a")
    await set_up.third().register(OTHER)
    await guest.register()
    await guest.reserve(WERO)
    assert (await set_up.clients["host-a"].prepare(GUEST, "h1", set_up.apis["host-b"])).state == "prepared"
    return guest


def test_the_guest_sees_its_own_registration_alone_at_every_instant(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = await prepared(set_up)
            assert await keys_seen(guest) == [OTHER, KEY]
            assert len(await set_up.registrants()) == 3

            wrong: list[list[int]] = []
            expected = [OTHER]

            async def hook(host: str, _: Command) -> Fate:
                # between any two commands of the destination, which takes what it has added away again
                if host == "host-b":
                    seen = await keys_seen(guest)
                    if seen != expected:
                        wrong.append(seen)
                return Fate.ANSWERED

            set_up.hook(hook)
            await guest.must(out_command(OutServiceAction.REGISTER, KEY, 0))
            assert await keys_seen(guest) == [OTHER]
            client = set_up.clients["host-a"]
            await client.roll_back(GUEST, "h1")
            set_up.hook(None)
            assert wrong == []
            assert await set_up.registrants() == {"third": (OTHER, False)}
            await guest.register(0xABC)
            assert await keys_seen(guest) == [0xABC, OTHER]

    asyncio.run(test())


def test_a_key_that_the_guest_changes_is_seen_once(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = await prepared(set_up)
            for before, after in ((KEY, 0x51), (0x51, 0x52)):
                await guest.must(out_command(OutServiceAction.REGISTER, before, after))
                for _ in range(5):
                    assert await keys_seen(guest) == [after, OTHER]
            client = set_up.clients["host-a"]
            assert (await client.commit(GUEST, "h1")).state == "committed"
            there = set_up.guest_on("host-b")
            assert await keys_seen(there) == [0x52, OTHER]

    asyncio.run(test())


async def as_on_a_hosts_nexus(device: GuestDevice, limit: float, *, recorded: bool) -> None:
    """By the helper the nexus is the host's, so that the LUN alone says what the guest has."""
    device.sole_nexus = False
    await preflight_after_start(device, limit, recorded=recorded)


@pytest.mark.parametrize("sole", [True, False], ids=["behind iSCSI", "the host's own nexus"])
def test_an_agent_that_begins_anew_knows_what_its_handover_has_registered(
    tmp_path: Path, sole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with san(tmp_path) as set_up:
            guest = await prepared(set_up)
            client = set_up.clients["host-a"]
            await set_up.stop("host-a")
            if not sole:
                monkeypatch.setattr("holdover.agent.settling.preflight_after_start", as_on_a_hosts_nexus)
            await set_up.start("host-a")
            await asyncio.gather(*set_up.hosts["host-a"]._settling)
            guest = set_up.guest_on("host-a")
            (device,) = (await client.guest(GUEST)).devices
            assert (device.report, device.type, device.stale) == ("", 5, False)
            assert await keys_seen(guest) == [OTHER, KEY]
            assert (await client.commit(GUEST, "h1")).state == "committed"
            assert (await client.finish(GUEST, "h1")).state == "gone"
            assert (await client.guest(GUEST)).devices[0].report == ""
            assert await set_up.registrants() == {"third": (OTHER, False), "host-b": (KEY, True)}

    asyncio.run(test())
