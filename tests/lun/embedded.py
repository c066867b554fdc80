"""What the tests of an embedded LUN share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.scsi.cdbs.cdb import CompareAndWrite, Sanitize, Write
from holdover.scsi.cdbs.opcodes import SanitizeServiceAction
from holdover.scsi.command import Command
from holdover.scsi.sense import is_unit_attention
from tests.lun.support import (
    TEST_UNIT_READY,
    A,
    B,
)

SIZE = 4 << 20
LARGE_WRITE = Command(Write(0, 2048, 10).encode(), b"L" * (1 << 20))
COMPARE_AND_WRITE = Command(CompareAndWrite(0, 1).encode(), b"L" * 512 + b"N" * 512)
BLOCK_ERASE = Command(Sanitize(SanitizeServiceAction.BLOCK_ERASE).encode())


def options(folder: Path) -> LunOptions:
    return LunOptions(folder / "lun", SIZE)


def run(folder: Path, session: Callable[[EmbeddedLun], Awaitable[None]]) -> None:
    """Open the LUN, greet A and B away, do something, close it."""

    async def body() -> None:
        lun = EmbeddedLun.open(options(folder))
        try:
            for nexus in (A, B):
                assert is_unit_attention(await lun.execute(nexus, TEST_UNIT_READY))
            await session(lun)
        finally:
            await lun.close()

    asyncio.run(body())


class Gate:
    """Holds the threads of some method of a class until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: type[object], name: str) -> None:
        self.entered, self._opened = threading.Event(), threading.Event()
        inner = getattr(owner, name)

        def gated(*arguments: object) -> object:
            self.entered.set()
            assert self._opened.wait(600)
            return inner(*arguments)

        monkeypatch.setattr(owner, name, gated)

    async def wait_entered(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, 30)

    def open(self) -> None:
        self._opened.set()
