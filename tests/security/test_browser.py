"""A page in the operator's browser, which has requests sent to an agent on the same machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, KEY, San, san

PREPARE = f"/guests/{GUEST}/handover/prepare"
DOCUMENT = json.dumps({"handover_id": "h1", "to": "host-b"})

PAGE = """<!DOCTYPE html>
<iframe name="nowhere"></iframe>
<form id="form" method="post" enctype="text/plain" target="nowhere"></form>
<script>
const front_ends = FRONT_ENDS, path = PATH, body = BODY;
async function attack() {
  for (const front_end of front_ends) {
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"]) {
      for (const mode of ["no-cors", "cors"]) {
        const headers = {"content-type": type};
        await fetch(front_end + path, {method: "POST", mode, headers, body}).catch(() => {});
      }
    }
    await fetch(front_end + "/guests", {mode: "no-cors"}).catch(() => {});
    form.action = front_end + path;
    form.submit();
    await new Promise(resolve => setTimeout(resolve, 500));
  }
  await fetch("/done");
}
attack();
</script>
"""


@dataclass
class Evil:
    """A web server with the page, which learns from the page when it has done its worst."""

    page: str = ""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readline()).split()[1]
        await reader.readuntil(b"\r\n\r\n")
        if path == b"/done":
            self.done.set()
        body = self.page.encode() if path == b"/" else b""
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {len(body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        await writer.drain()
        writer.close()


@dataclass
class Forwarder:
    """Lets TCP in at an agent's Unix socket, as socat may, and makes its Host good.

    Attributes:
        asked: The first line of each request.
        said: The status line of each answer.
    """

    path: str
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(self.path)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await asyncio.gather(self._ask(reader, back), self._answer(there, writer))
        writer.close()
        back.close()

    async def _ask(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            if line.lower().startswith(b"host:"):
                line = b"Host: localhost\r\n"
            if line.endswith(b" HTTP/1.1\r\n"):
                self.asked.append(line.decode().removesuffix(" HTTP/1.1\r\n"))
            back.write(line)
        back.write_eof()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await there.readline():
            if line.startswith(b"HTTP/1.1 "):
                self.said.append(line.decode().split()[1])
            writer.write(line)
            await writer.drain()


@asynccontextmanager
async def listening(server: Evil | Forwarder) -> AsyncIterator[str]:
    opened = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    yield f"127.0.0.1:{opened.sockets[0].getsockname()[1]}"
    opened.close()


async def browse(address: str, folder: Path, evil: Evil) -> None:
    """Open the page in a browser that accepts any certificate, and wait until it has done its worst."""
    options = (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--ignore-certificate-errors",
        "--remote-debugging-port=0",
    )
    browser = await asyncio.create_subprocess_exec(
        *("chromium", *options, f"--user-data-dir={folder / 'profile'}", f"http://{address}/"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await evil.done.wait()
    finally:
        browser.terminate()
        await browser.wait()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_a_page_gets_nothing_done(tmp_path: Path) -> None:
    async def test() -> None:
        async with asyncio.timeout(600), san(tmp_path) as site:
            await reserved(site)
            forwarder = Forwarder(site.certified["host-a"].api.removeprefix("unix:"))
            evil = Evil()
            async with listening(forwarder) as front_end, listening(evil) as address:
                front_ends = [
                    f"http://{front_end}",
                    f"http://{site.apis['host-a']}",
                    f"https://{site.apis['host-a']}",
                ]
                evil.page = (
                    PAGE.replace("FRONT_ENDS", json.dumps(front_ends))
                    .replace("PATH", json.dumps(PREPARE))
                    .replace("BODY", json.dumps(DOCUMENT))
                )
                await browse(address, tmp_path, evil)
            await nothing_happened(site)
            # the page's requests did arrive where somebody let them in
            assert f"POST {PREPARE}" in forwarder.asked
            assert "GET /guests" in forwarder.asked
            assert set(forwarder.said) == {"403"}

    asyncio.run(test())


async def nothing_happened(site: San) -> None:
    assert site.hosts["host-a"].handovers.state(GUEST) is None
    assert await site.registrants() == {"host-a": (KEY, True)}
