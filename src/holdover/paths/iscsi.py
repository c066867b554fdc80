"""Paths to LUNs behind iSCSI.

Paths to one target under one identity share a session. So a guest with many LUNs has one connection. When a
session was lost, the next command opens a new one, with the same initiator name and ISID. To the target, that
is the same I_T nexus with the registrations that it had.

A target may be written with several addresses: a name and an IP address, or two portals of one portal group.
They are one I_T nexus, and the target ends the session that it has when the next one logs in (RFC 7143
6.3.5). So paths by such addresses share a session, too. The target tells the portal group at the login.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from holdover.iscsi.errors import CommandRefused, ConnectionLost, IscsiError, LoginError
from holdover.iscsi.initiator.initiator import IscsiInitiator, send_targets
from holdover.iscsi.numbers import LoginStatus
from holdover.iscsi.url import IscsiUrl
from holdover.paths.submitted import Submitted
from holdover.scsi.command import Command, Response
from holdover.scsi.path import AnswerLost, Awaited, PathError
from holdover.scsi.reservation.transport_id import IscsiTransportID

log = structlog.get_logger()

_ISID_RANDOM = 0x80
"""The ISID type 10b, random format (RFC 7143 11.12.5)."""

_TARGETS = 8
"""How many targets of a portal an error names."""

_NAME = 223
"""Characters of an iSCSI name (RFC 7143 4.2.7.1); a portal may send more."""


def isid_of(text: str) -> bytes:
    """The ISID of ``text``, 6 bytes. It is always the same, because a nexus must survive a restart."""
    return bytes([_ISID_RANDOM]) + hashlib.sha256(text.encode()).digest()[:5]


@dataclass(frozen=True, slots=True)
class InitiatorIdentity:
    """An initiator port: the identity of a path to the target.

    Attributes:
        initiator: The iSCSI initiator name.
        isid: The ISID, 6 bytes.
    """

    initiator: str
    isid: bytes


class _SharedSession:
    """One session with one target. It is opened when it is needed, and the paths through it share it.

    Attributes:
        key: The address and the name of the target, and the initiator port.
        users: How many paths, and sessions by other addresses, use it.
        same: The session by another address of the same portal group, which is used in place of this one.
    """

    def __init__(
        self,
        url: IscsiUrl,
        identity: InitiatorIdentity,
        timeout: float,
        opened: Callable[[_SharedSession, IscsiInitiator], None],
    ) -> None:
        """``opened`` is called after each login; it has the session keep what has logged in."""
        self.key = _key(url, identity)
        self._url = url
        self._identity = identity
        self._timeout = timeout
        self._opened = opened
        self._initiator: IscsiInitiator | None = None
        self._opening = asyncio.Lock()
        self.port = str(IscsiTransportID(identity.initiator, identity.isid))
        self.users = 0
        self.same: _SharedSession | None = None

    @property
    def where(self) -> str:
        """The address of the target."""
        return f"{self._url.host}:{self._url.port}"

    def keep(self, initiator: IscsiInitiator) -> None:
        """Use what has logged in."""
        self._initiator = initiator

    def _logged_in(self) -> IscsiInitiator | None:
        initiator = (self.same or self)._initiator
        return None if initiator is None or initiator.lost is not None else initiator

    async def execute(self, lun: int, command: Command) -> Response:
        return await (self._logged_in() or await self._open()).execute(lun, command)

    def submit(self, lun: int, command: Command) -> asyncio.Future[Response] | None:
        """Begin a command; None if there is no session at the moment."""
        initiator = self._logged_in()
        if initiator is None:
            return None
        try:
            return initiator.submit(lun, command)
        except (ConnectionLost, ValueError):
            return None

    def forward(self, lun: int, command: Command, awaited: Awaited) -> Callable[[], Awaitable[None]] | None:
        """Begin a command; None if there is no session at the moment."""
        initiator = self._logged_in()
        if initiator is None:
            return None
        try:
            return initiator.forward(lun, command, awaited)
        except (ConnectionLost, ValueError):
            return None

    async def _open(self) -> IscsiInitiator:
        if self.same is not None:
            return await self.same._open()
        async with self._opening:
            if (found := self._logged_in()) is not None:
                return found
            try:
                initiator = await self._connect()
            except LoginError as error:
                if error.status is not LoginStatus.NOT_FOUND:
                    raise
                raise LoginError(f"{error}; {await self._targets()}", error.code) from error
            self._opened(self, initiator)
            return initiator

    async def _connect(self) -> IscsiInitiator:
        return await IscsiInitiator.connect(
            self._url.host,
            self._url.port,
            self._url.iqn,
            initiator_name=self._identity.initiator,
            isid=self._identity.isid,
            user=self._url.user,
            password=self._url.password,
            timeout=self._timeout,
        )

    async def _targets(self) -> str:
        """In words: which targets the portal has."""
        try:
            found = await send_targets(
                self._url.host,
                self._url.port,
                initiator_name=self._identity.initiator,
                isid=self._identity.isid,
                user=self._url.user,
                password=self._url.password,
                timeout=self._timeout,
            )
        except (IscsiError, OSError) as error:
            return f"the portal does not list its targets: {error}"
        names = [each.name[:_NAME] for each in found if each.name.isprintable()]
        more = f" and {len(names) - _TARGETS} more" if len(names) > _TARGETS else ""
        return (
            f"the portal has {', '.join(names[:_TARGETS])}{more}" if names else "the portal lists no target"
        )

    async def close(self) -> None:
        if self._initiator is not None:
            with contextlib.suppress(IscsiError, OSError):
                await self._initiator.close()
            self._initiator = None


class IscsiSessions:
    """The sessions of one process. Every path gets its session here, so paths to one target share one."""

    def __init__(self, timeout: float = 10.0) -> None:
        """``timeout``: the seconds for connecting and logging in."""
        self.timeout = timeout
        self._sessions: dict[_Key, _SharedSession] = {}
        self._nexuses: dict[tuple[str, InitiatorIdentity, int], _SharedSession] = {}
        """The session of each target, initiator port and portal group."""

    def path(self, url: IscsiUrl, identity: InitiatorIdentity) -> IscsiPath:
        """A path to the LUN of ``url`` with ``identity``. It connects when the first command comes."""
        key = _key(url, identity)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _SharedSession(url, identity, self.timeout, self._opened)
        session.users += 1
        return IscsiPath(url, session, lambda: self._release(session))

    def _opened(self, session: _SharedSession, initiator: IscsiInitiator) -> None:
        """A session has logged in. If that has ended a session by another address, both become one."""
        _, _, iqn, identity = session.key
        first = session
        if initiator.portal_group is not None:
            first = self._nexuses.setdefault((iqn, identity, initiator.portal_group), session)
        first.keep(initiator)
        if first is not session:
            session.same = first
            first.users += 1
            log.info(
                "Two addresses of a target are one I_T nexus, and share a session.",
                target=iqn,
                address=session.where,
                first=first.where,
            )

    async def _release(self, session: _SharedSession) -> None:
        session.users -= 1
        if session.users > 0:
            return
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
        if session.same is not None:
            await self._release(session.same)
            return
        self._nexuses = {key: each for key, each in self._nexuses.items() if each is not session}
        await session.close()


_Key = tuple[str, int, str, InitiatorIdentity]


def _key(url: IscsiUrl, identity: InitiatorIdentity) -> _Key:
    return (url.host, url.port, url.iqn, identity)


class IscsiPath:
    """A path to one LUN behind iSCSI, through a session that other paths may share.

    Attributes:
        port: The initiator port as READ FULL STATUS names it: initiator name and ISID.
    """

    def __init__(
        self, url: IscsiUrl, session: _SharedSession, release: Callable[[], Awaitable[None]]
    ) -> None:
        self._url = url
        self._session = session
        self.port = session.port
        self._release: Callable[[], Awaitable[None]] | None = release

    @property
    def name(self) -> str:
        """The URL, without the password."""
        return str(self._url)

    @property
    def nexuses(self) -> int:
        """Always 1: a session has one initiator port and one target port."""
        return 1

    async def execute(self, command: Command) -> Response:
        """Send one command. If there is no session, open one first.

        Raises:
            PathError: No session could be opened, so the command was not sent.
            AnswerLost: The connection was lost with the command in flight, or the answer has no SCSI status.
        """
        try:
            return await self._session.execute(self._url.lun, command)
        except (IscsiError, ValueError) as error:
            raise self.explain(error) from error

    def submit(self, command: Command) -> Submitted | None:
        """Send one command without waiting; None if there is no session at the moment."""
        ended = self._session.submit(self._url.lun, command)
        return None if ended is None else Submitted(ended, self.explain)

    def forward(self, command: Command, awaited: Awaited) -> Callable[[], Awaitable[None]] | None:
        """Send one command without waiting, and tell its end to ``awaited``; None if there is no session."""
        return self._session.forward(self._url.lun, command, awaited)

    def explain(self, error: Exception) -> PathError:
        """What `execute` raises for an error of the session."""
        is_sent = isinstance(error, ConnectionLost) and error.sent and error.command is not None
        kind = AnswerLost if is_sent or isinstance(error, CommandRefused) else PathError
        return kind(self.name, str(error))

    async def close(self) -> None:
        """Stop using the session. When its last path is closed, the session logs out."""
        release, self._release = self._release, None
        if release is not None:
            await release()
