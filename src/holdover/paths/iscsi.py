"""A LUN behind iSCSI.

Paths to one target under one identity share a session, so that a guest with many LUNs has one
connection. A session that was lost is opened anew by the next command, under the same initiator
name and ISID: to the target that is the same I_T nexus, with the registrations it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from holdover.iscsi.errors import CommandRefused, ConnectionLost, IscsiError
from holdover.iscsi.initiator import IscsiInitiator
from holdover.iscsi.url import IscsiUrl
from holdover.paths.path import AnswerLost, PathError
from holdover.scsi.command import Command, Response

__all__ = ["Identity", "IscsiPath", "IscsiSessions", "isid_of"]

_ISID_RANDOM = 0x80
"""ISID type 10b, random format (RFC 7143 11.12.5)."""


def isid_of(text: str) -> bytes:
    """The ISID, 6 bytes, that belongs to ``text`` for ever: a nexus must survive a restart."""
    return bytes([_ISID_RANDOM]) + hashlib.sha256(text.encode()).digest()[:5]


@dataclass(frozen=True, slots=True)
class Identity:
    """An initiator port: who a path is to the target.

    Attributes:
        initiator: The iSCSI initiator name.
        isid: 6 bytes.
    """

    initiator: str
    isid: bytes


class _Session:
    """One session to one target, opened when needed and shared by the paths through it."""

    def __init__(self, url: IscsiUrl, identity: Identity, timeout: float) -> None:
        self._url = url
        self._identity = identity
        self._timeout = timeout
        self._initiator: IscsiInitiator | None = None
        self._opening = asyncio.Lock()
        self.users = 0

    async def execute(self, lun: int, command: Command) -> Response:
        initiator = self._initiator
        if initiator is None or initiator.lost is not None:
            initiator = await self._open()
        return await initiator.execute(lun, command)

    async def _open(self) -> IscsiInitiator:
        async with self._opening:
            if self._initiator is not None and self._initiator.lost is None:
                return self._initiator
            self._initiator = await IscsiInitiator.connect(
                self._url.host,
                self._url.port,
                self._url.iqn,
                initiator_name=self._identity.initiator,
                isid=self._identity.isid,
                user=self._url.user,
                password=self._url.password,
                timeout=self._timeout,
            )
            return self._initiator

    async def close(self) -> None:
        if self._initiator is not None:
            with contextlib.suppress(IscsiError, OSError):
                await self._initiator.close()
            self._initiator = None


class IscsiSessions:
    """The sessions of one process: a path asks here, so that paths to one target share one."""

    def __init__(self, timeout: float = 10.0) -> None:
        """``timeout``: seconds for connecting and logging in."""
        self._timeout = timeout
        self._sessions: dict[tuple[str, int, str, Identity], _Session] = {}

    def path(self, url: IscsiUrl, identity: Identity) -> IscsiPath:
        """A path to the LUN of ``url`` as ``identity``; connects when the first command comes."""
        key = (url.host, url.port, url.iqn, identity)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _Session(url, identity, self._timeout)
        session.users += 1
        return IscsiPath(url, session, lambda: self._release(key))

    async def _release(self, key: tuple[str, int, str, Identity]) -> None:
        session = self._sessions.get(key)
        if session is None:
            return
        session.users -= 1
        if session.users == 0:
            del self._sessions[key]
            await session.close()


class IscsiPath:
    """One LUN behind iSCSI, through a session that may be shared."""

    def __init__(self, url: IscsiUrl, session: _Session, release: Callable[[], Awaitable[None]]) -> None:
        self._url = url
        self._session = session
        self._release: Callable[[], Awaitable[None]] | None = release

    @property
    def name(self) -> str:
        """The URL, without the password."""
        return str(self._url)

    @property
    def nexuses(self) -> int:
        """One: a session has one initiator port and one target port."""
        return 1

    async def execute(self, command: Command) -> Response:
        """Send one command; opens the session first where there is none.

        Raises:
            PathError: No session could be opened, so the command was not sent.
            AnswerLost: The connection went with the command in flight, or the target failed over it.
        """
        try:
            return await self._session.execute(self._url.lun, command)
        except ConnectionLost as error:
            kind = AnswerLost if error.sent and error.command is not None else PathError
            raise kind(self.name, str(error)) from error
        except CommandRefused as error:
            raise AnswerLost(self.name, str(error)) from error
        except (IscsiError, ValueError) as error:
            raise PathError(self.name, str(error)) from error

    async def close(self) -> None:
        """Log out when this was the session's last path."""
        release, self._release = self._release, None
        if release is not None:
            await release()
