"""A QEMU with disks of the host starts a guest that another host may have: the agent asks its peers first."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from holdover.agent.attach import starting
from holdover.agent.host import Host
from holdover.guest.gate import Gate
from holdover.helper.connection import Peer
from tests.agent.attach.attach_site import LUN, qemu
from tests.agent.hosts import san


async def until(look: Callable[[], bool]) -> None:
    while not look():  # noqa: ASYNC110 - no event for it
        await asyncio.sleep(0.01)


def gate(host: Host, guest: str) -> Gate | None:
    attached = host._attachments.get(guest)
    return None if attached is None else attached.gate_now


def test_two_qemus_of_one_guest_on_two_hosts_are_not_both_let_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "retry_pauses", lambda _: itertools.repeat(0.01))

    async def test() -> None:
        async with san(tmp_path) as set_up:
            first, second = set_up.hosts["host-a"], set_up.hosts["host-b"]
            with qemu("-name", "db2") as here, qemu("-name", "db2") as there:
                await first._attachments.guest_of(Peer(here.pid, 0, 0), None, LUN)
                await until(lambda: gate(first, "db2") is Gate.RUNNING)
                await second._attachments.guest_of(Peer(there.pid, 0, 0), None, LUN)
                told = re.compile(r"guest db2: its QEMU runs on host-b, but .* guest db2 is on host-a")
                await until(lambda: any(map(told.match, second._warnings())))
                assert gate(second, "db2") is Gate.INCOMING
                # the first one ends, and nothing of the guest is left there
                here.communicate()
                await until(lambda: gate(second, "db2") is Gate.RUNNING)

    asyncio.run(test())


def test_a_guest_waits_for_a_peer_that_cannot_be_asked_until_it_is_declared_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "retry_pauses", lambda _: itertools.repeat(0.01))

    async def test() -> None:
        async with san(tmp_path) as set_up:
            await set_up.stop("host-b")
            host = set_up.hosts["host-a"]
            with qemu("-name", "db2") as process:
                await host._attachments.guest_of(Peer(process.pid, 0, 0), None, LUN)
                await until(
                    lambda: any("holdover host declare-dead host-b" in each for each in host._warnings())
                )
                assert gate(host, "db2") is Gate.INCOMING
                await host.placement.hosts.declare_dead("host-b", "a test", "")
                await until(lambda: gate(host, "db2") is Gate.RUNNING)

    asyncio.run(test())
