"""A real browser (package chromium) that a test drives: pages, keys, clicks, pictures."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from websockets.asyncio.client import ClientConnection, connect

NEEDED = "chromium"
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
    "--window-size=1280,900",
)


class Browser:
    """One page of a browser, by the browser's debugging protocol.

    Attributes:
        asked: The address of each request that the page has sent.
        complaints: What the page's console has said of errors.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for text in self._connection:
            message = json.loads(text)
            if "id" in message:
                self._answers.pop(message["id"]).set_result(message)
            elif message["method"] == "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            elif message["method"] == "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded":
                self.complaints.append(message["params"]["entry"]["text"])

    async def call(self, method: str, **parameters: Any) -> Any:
        """One method of the debugging protocol; its result."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        message = await answer
        assert "error" not in message, message
        return message["result"]

    async def open(self, address: str) -> None:
        """Go to an address."""
        await self.call("Page.navigate", url=address)

    async def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is awaited."""
        result = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str) -> Any:
        """The value of an expression, as soon as it is true."""
        while True:
            found = await self.value(expression)
            if found:
                return found
            await asyncio.sleep(0.05)

    async def press(self, key: str, code: int = 0) -> None:
        """Press a key: a character, or a name such as Enter with its code."""
        text = {"text": key} if len(key) == 1 else {"text": "\r"} if key == "Enter" else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    async def picture(self, file: Path) -> None:
        """Save what the window shows, as PNG."""
        result = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(file.write_bytes, base64.b64decode(result["data"]))

    async def close(self) -> None:
        """End the connection to the browser."""
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader
        await self._connection.close()


def is_here() -> bool:
    """Whether the browser is installed."""
    return shutil.which(NEEDED) is not None


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A browser with a profile of its own in ``folder``."""
    profile = folder / "profile"
    process = await asyncio.create_subprocess_exec(
        *(NEEDED, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = await _port(profile / "DevToolsActivePort")
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{port}/json/list") as answer,
        ):
            pages = [each for each in await answer.json() if each["type"] == "page"]
        connection = await connect(
            pages[0]["webSocketDebuggerUrl"], max_size=64 << 20, compression=None, proxy=None
        )
        made = Browser(connection)
        try:
            for domain in ("Page", "Runtime", "Network", "Log"):
                await made.call(f"{domain}.enable")
            yield made
        finally:
            await made.close()
    finally:
        process.terminate()
        await process.wait()


async def _port(file: Path) -> int:
    """The port that the browser writes into a file of its profile."""
    while True:
        with contextlib.suppress(OSError):
            lines = (await asyncio.to_thread(file.read_text)).split()
            if len(lines) > 1:
                return int(lines[0])
        await asyncio.sleep(0.05)
