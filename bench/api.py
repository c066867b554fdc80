"""`python -m bench.api`: what a message between agents costs, plain and over TLS, on a warm connection.

One POST with the devices of a guest, answered by a real agent in a process of its own; the client is
the one that agents use, on the loop that they use. The guest that it names does not exist: what is measured
is the way there and back, the document's decoding and the refusal.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from holdover.agent import authority
from holdover.agent.api import PeerMessage
from holdover.agent.client import AgentClient, AgentRefused
from holdover.agent.tls import ClientTls, Credentials, TlsFiles
from holdover.demo.processes import free_port
from holdover.guest.snoop import Tracked
from holdover.handover.moving import MovingLun
from holdover.handover.protocol import Message
from holdover.handover.states import MessageKind
from holdover.scsi.opcodes import ReservationType

_WARM_UP = 200
_PEER = '[[peer]]\nname = "host-b"\napi = "127.0.0.1:1"\n'
_SEED = 0x600140500000000000000000DB100000


def _message(count: int) -> PeerMessage:
    """COMMIT of a guest with so many devices."""
    tracked = Tracked(0xC0FFEE, True, ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
    luns = tuple(
        MovingLun(f"naa.{_SEED + number:032x}", tracked=tracked, prey=0xC0FFEE) for number in range(count)
    )
    message = Message(MessageKind.COMMIT, "bench", "nobody", 1, luns)
    return PeerMessage(host="host-b", api="127.0.0.1:1", message=message)


def _certificates(folder: Path) -> dict[str, TlsFiles]:
    now = datetime.datetime.now(datetime.UTC)
    authority.init(folder, 30, now)
    made = (authority.issue(name, folder, [], 20, now) for name in ("host-a", "host-b"))
    return {each.name: TlsFiles(each.certificate, each.key, each.ca) for each in made}


@asynccontextmanager
async def _agent(folder: Path, files: TlsFiles | None) -> AsyncGenerator[str, None]:
    """An agent, plain or with TLS; its API."""
    api = f"127.0.0.1:{free_port()}"
    secure = ""
    if files is not None:
        secure = f'certificate = "{files.certificate}"\nkey = "{files.key}"\nca = "{files.ca}"\n'
        secure += 'operators = ["host-b"]\n'
    file = folder / "agent.toml"
    initiator = "iqn.2026-11.org.example:host-a"
    file.write_text(f'name = "host-a"\ninitiator = "{initiator}"\n[api]\nlisten = "{api}"\n{secure}{_PEER}')
    command = (sys.executable, "-m", "holdover", "agent", "--config", str(file))
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        if process.stdout is None or not await process.stdout.readline():
            raise RuntimeError("the agent did not start; its reason stands above")
        yield api
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _times(client: AgentClient, message: PeerMessage, count: int) -> list[float]:
    """Microseconds of each message."""
    found = []
    for _ in range(count):
        began = time.perf_counter()
        with contextlib.suppress(AgentRefused):
            await client.tell(message)
        found.append((time.perf_counter() - began) * 1e6)
    return found


async def _measure(rounds: int, count: int) -> Table:
    table = Table(
        "DEVICES",
        "CONNECTION",
        "FIRST, ms",
        "LEAST, µs",
        "p50, µs",
        "p99, µs",
        title="One message to an agent",
    )
    with tempfile.TemporaryDirectory() as name:
        files = _certificates(Path(name) / "ca")
        tls = ClientTls(Credentials(files["host-b"]).client, "host-a")
        async with _agent(Path(name), None) as plain, _agent(Path(name), files["host-a"]) as https:
            for number in (1, 64, 256):
                message = _message(number)
                clients = {"plain": AgentClient(plain), "TLS": AgentClient(https, tls=tls)}
                first = {kind: (await _times(client, message, 1))[0] for kind, client in clients.items()}
                times: dict[str, list[float]] = {kind: [] for kind in clients}
                for client in clients.values():
                    await _times(client, message, _WARM_UP)
                for _ in range(rounds):
                    for kind, client in clients.items():
                        times[kind] += await _times(client, message, count)
                for kind, client in clients.items():
                    cuts = statistics.quantiles(times[kind], n=100)
                    figures = [f"{each:.0f}" for each in (min(times[kind]), cuts[49], cuts[98])]
                    table.add_row(str(number), kind, f"{first[kind] / 1000:.1f}", *figures)
                    await client.close()
    return table


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="plain and TLS alternate")
    parser.add_argument("--count", type=int, default=400, help="messages in each round")
    options = parser.parse_args()
    Console().print(uvloop.run(_measure(options.rounds, options.count)))


if __name__ == "__main__":
    main()
