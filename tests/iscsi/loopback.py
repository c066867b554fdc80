"""A target over loopback with disks in memory, for tests of the asyncio target."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.negotiation import NegotiationLimits
from holdover.iscsi.requests import LoginRequest
from holdover.iscsi.target.target import IscsiTarget, SessionChange
from holdover.iscsi.text import encode_text
from holdover.scsi.command import DeviceServer
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import RamDisk

OTHER_ISID = b"\x80\x99\2\3\4\5"


class Setting:
    """A target with two disks, LUNs 0 and 300, and initiators for it."""

    def __init__(self, target: IscsiTarget, disks: tuple[RamDisk, RamDisk], port: int) -> None:
        self.target = target
        self.disk, self.other_disk = disks
        self.port = port

    async def connect(
        self,
        isid: bytes = ISID,
        credentials: tuple[str | None, str | None] = (None, None),
        limits: NegotiationLimits | None = None,
    ) -> IscsiInitiator:
        user, password = credentials
        return await IscsiInitiator.connect(
            "127.0.0.1",
            self.port,
            TARGET,
            INITIATOR,
            isid,
            user=user,
            password=password,
            limits=limits,
            ping_interval=None,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(20000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it has not come to that")


@contextlib.asynccontextmanager
async def setting(
    *,
    credentials: ChapCredentials | None = None,
    max_sessions: int | None = 64,
    max_logins: int = 64,
    login_timeout: float = 15.0,
    on_session: Callable[[SessionChange], None] | None = None,
    luns: Mapping[int, DeviceServer] | None = None,
) -> AsyncIterator[Setting]:
    disks = RamDisk(), RamDisk()
    target = IscsiTarget(
        TARGET,
        {0: disks[0], 300: disks[1], **(luns or {})},
        credentials=credentials,
        max_sessions=max_sessions,
        max_logins=max_logins,
        login_timeout=login_timeout,
        on_session=on_session,
    )
    port = await target.start("127.0.0.1", 0)
    try:
        yield Setting(target, disks, port)
    finally:
        await target.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(600):
            await test()

    asyncio.run(limited())


def login(tsih: int = 0, said: dict[str, str] | None = None) -> bytes:
    pairs = {"InitiatorName": INITIATOR, "TargetName": TARGET, **(said or {})}
    request = LoginRequest(0, ISID, tsih, 1, 3, True, encode_text(pairs.items()), cmd_sn=1)
    return b"".join(request.encode())
