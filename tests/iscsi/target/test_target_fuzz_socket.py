"""Thousands of connections that send nonsense, while another initiator goes on working (RFC 7143 9)."""

from __future__ import annotations

import asyncio
import contextlib
import random

from tests.iscsi.loopback import OTHER_ISID, Setting, login, run, setting
from tests.iscsi.ram import BLOCK, read, write
from tests.iscsi.target.test_target_fuzz import Host, random_bytes
from tests.rig.amounts import amount

CONNECTIONS = amount(600, 3_000)
AT_ONCE = 12


async def disturb(here: Setting, source: random.Random) -> None:
    """One connection: noise, or a login and then mutations; cut off or ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
    with contextlib.suppress(OSError):
        if source.random() < 0.5:
            writer.write(random_bytes(source))
        else:
            writer.write(login())
            await reader.readexactly(48)
            inventor = Host(source)
            writer.write(b"".join(inventor.mutated() for _ in range(source.randrange(20))))
        if source.random() < 0.3:
            writer.transport.abort()
            return
        writer.write_eof()
        with contextlib.suppress(asyncio.IncompleteReadError):
            await reader.read()
    writer.close()


async def work(here: Setting, done: asyncio.Event) -> int:
    """Write and read back until the others are done; tell how often."""
    initiator = await here.connect(OTHER_ISID)
    rounds = 0
    while not done.is_set():
        data = rounds.to_bytes(8) * (8 * BLOCK // 8)
        lba = rounds * 8 % 4096
        assert (await initiator.execute(300, write(lba, data))).good
        assert (await initiator.execute(300, read(lba, 8))).data_in == data
        rounds += 1
    assert initiator.lost is None
    await initiator.close()
    return rounds


def test_nonsense_on_many_connections_disturbs_nobody() -> None:
    async def test() -> None:
        async with setting() as here:
            done = asyncio.Event()
            worker = asyncio.create_task(work(here, done))

            async def one_after_another(seed: int) -> None:
                source = random.Random(seed)
                for _ in range(CONNECTIONS // AT_ONCE):
                    await disturb(here, source)
                    assert not worker.done()

            await asyncio.gather(*(one_after_another(seed) for seed in range(AT_ONCE)))
            done.set()
            assert await worker > CONNECTIONS // 10
            # Nothing of them is left.
            await here.until(lambda: not here.target.sessions() and not here.target._connections)

    run(test)
