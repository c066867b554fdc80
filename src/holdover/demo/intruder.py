"""A third initiator that registers nothing and keeps trying to write over the guest's blocks.

Run it as ``python -m holdover.demo.intruder``. It reads orders from standard input and reports on standard
output.
"""

from __future__ import annotations

import asyncio

from holdover.demo.blocks import BLOCK, FOREIGN
from holdover.demo.messages import Connect, Order, Report
from holdover.demo.workload import BLOCKS
from holdover.demo.writer import Counter, orders, say
from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.scsi.cdbs.cdb import Write
from holdover.scsi.command import Command
from holdover.scsi.sense import is_unit_attention

_LOGICAL = BLOCK // 512
_PAUSE = 0.001


async def run() -> None:
    """Write until a second order comes, whatever order that is."""
    async with orders() as queue:
        order = await queue.get()
        if isinstance(order, Connect):
            await _write(order.url, queue)


async def _write(url: str, queue: asyncio.Queue[Order]) -> None:
    identity = InitiatorIdentity("iqn.2026-11.org.holdover:demo-intruder", isid_of("demo"))
    path = IscsiSessions().path(parse_iscsi_url(url), identity)
    counter = Counter("intruder")
    address = 0
    while queue.empty():
        address = (address + 1) % BLOCKS
        response = await path.execute(Command(Write(address * _LOGICAL, _LOGICAL, 10).encode(), FOREIGN))
        if not is_unit_attention(response):
            counter.count(response)
        await asyncio.sleep(_PAUSE)
    counter.tick()
    await path.close()
    say(Report("intruder", counter.accepted, counter.refused))


if __name__ == "__main__":
    asyncio.run(run())
