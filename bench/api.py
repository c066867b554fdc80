"""`python -m bench.api`: what a message between agents costs, over mutual TLS, on a warm connection.

The message is one POST with the devices of a guest. A real agent in a process of its own answers it. The
client and its event loop are those that agents use. The guest in the message does not exist, so the figures
are the way there and back, the decoding of the document, and the refusal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from holdover.api.client import AgentClient, AgentRefused
from holdover.api.documents import PeerMessage
from holdover.api.version import API_VERSION
from holdover.demo.hosts import CertifiedHost, certified_hosts
from holdover.handover.lun_handover import LunHandover
from holdover.handover.protocol import Message
from holdover.handover.states import MessageKind
from holdover.network import event_loop
from holdover.pki.tls import ClientTls, Credentials, TlsFiles
from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import ReservationType

_WARM_UP = 200
_SEED = 0x600140500000000000000000DB100000


def _message(count: int) -> PeerMessage:
    """A COMMIT for a guest with so many devices."""
    tracked = Tracked(0xC0FFEE, True, ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
    luns = tuple(
        LunHandover(f"naa.{_SEED + number:032x}", tracked=tracked, preempted_key=0xC0FFEE)
        for number in range(count)
    )
    message = Message(MessageKind.COMMIT, "bench", "nobody", 1, luns)
    return PeerMessage(version=API_VERSION, host="host-b", message=message)


@asynccontextmanager
async def _agent(folder: Path, hosts: Mapping[str, CertifiedHost]) -> AsyncGenerator[None, None]:
    """Run the agent of host-a."""
    file = folder / "agent.toml"
    initiator = "iqn.2026-11.org.example:host-a"
    file.write_text(f'name = "host-a"\ninitiator = "{initiator}"\n{hosts["host-a"].toml(hosts)}')
    command = (sys.executable, "-m", "holdover", "agent", "--config", str(file), "--ephemeral")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None or not await process.stdout.readline():
            raise RuntimeError("the agent did not start; its reason stands above")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _times(client: AgentClient, message: PeerMessage, count: int) -> list[float]:
    """The microseconds of each message."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        with contextlib.suppress(AgentRefused):
            await client.tell(message)
        found.append((time.perf_counter() - began) * 1e6)
    return found


async def _measure(rounds: int, count: int) -> Table:
    headings = ("DEVICES", "FIRST, ms", "LEAST, µs", "p50, µs", "p99, µs")
    table = Table(*headings, title="One message to an agent")
    with tempfile.TemporaryDirectory() as name:
        hosts = certified_hosts(Path(name), ("host-a", "host-b"))
        peer = hosts["host-b"]
        credentials = Credentials(TlsFiles(peer.certificate, peer.key, peer.ca))
        tls = ClientTls(credentials.client, "host-a")
        async with _agent(Path(name), hosts):
            for number in (1, 64, 256):
                message = _message(number)
                client = AgentClient(hosts["host-a"].address, tls=tls)
                first = (await _times(client, message, 1))[0]
                await _times(client, message, _WARM_UP)
                times = await _times(client, message, rounds * count)
                cuts = statistics.quantiles(times, n=100)
                figures = [f"{each:.0f}" for each in (min(times), cuts[49], cuts[98])]
                table.add_row(str(number), f"{first / 1000:.1f}", *figures)
                await client.close()
    return table


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=400, help="messages in each round")
    options = parser.parse_args()
    Console().print(event_loop.run(_measure(options.rounds, options.count)))


if __name__ == "__main__":
    main()
