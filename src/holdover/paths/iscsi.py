"""Paths to LUNs behind iSCSI.

Paths to one target under one identity share a session. So a guest with many LUNs has one connection. When a
session was lost, the next command opens a new one, with the same initiator name and ISID. To the target, that
is the same I_T nexus with the registrations that it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import structlog

from holdover.iscsi.errors import CommandRefused, ConnectionLost, IscsiError, LoginError
from holdover.iscsi.initiator.initiator import IscsiInitiator, send_targets
from holdover.iscsi.initiator.two_addresses import TwoAddresses
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
        guest: The guest whose port it is, for messages alone; empty if it is not a guest's.
    """

    initiator: str
    isid: bytes
    guest: str = field(default="", compare=False)


_Port = tuple[str, InitiatorIdentity]
"""The sessions of one identity with one target name are sessions of one initiator port."""


class _SharedSession:
    """One session with one target. It is opened when it is needed, and the paths through it share it."""

    def __init__(
        self, url: IscsiUrl, identity: InitiatorIdentity, timeout: float, addresses: TwoAddresses[_Port]
    ) -> None:
        self._url = url
        self._identity = identity
        self._timeout = timeout
        self._addresses = addresses
        self._address = url.portal
        self._initiator: IscsiInitiator | None = None
        self._opening = asyncio.Lock()
        self.port = str(IscsiTransportID(identity.initiator, identity.isid))
        self.users = 0

    async def execute(self, lun: int, command: Command) -> Response:
        initiator = self._initiator
        if initiator is None or initiator.lost is not None:
            initiator = await self._open()
        return await initiator.execute(lun, command)

    def submit(self, lun: int, command: Command) -> asyncio.Future[Response] | None:
        """Begin a command; None if there is no session at the moment."""
        initiator = self._initiator
        if initiator is None or initiator.lost is not None:
            return None
        try:
            return initiator.submit(lun, command)
        except (ConnectionLost, ValueError):
            return None

    def forward(self, lun: int, command: Command, awaited: Awaited) -> Callable[[], Awaitable[None]] | None:
        """Begin a command; None if there is no session at the moment."""
        if self._initiator is None:
            return None
        try:
            return self._initiator.forward(lun, command, awaited)
        except (ConnectionLost, ValueError):
            return None

    @property
    def initiator(self) -> IscsiInitiator | None:
        """The initiator with the session, if one was opened."""
        return self._initiator

    async def _open(self) -> IscsiInitiator:
        async with self._opening:
            if self._initiator is not None and self._initiator.lost is None:
                return self._initiator
            try:
                self._initiator = await self._log_in()
            except LoginError as error:
                if error.status is not LoginStatus.NOT_FOUND:
                    raise
                raise LoginError(f"{error}; {await self._targets()}", error.code) from error
            return self._initiator

    async def _log_in(self) -> IscsiInitiator:
        """A new session, and what its login and its end tell about other addresses of the target."""
        port, now = (self._url.iqn, self._identity), asyncio.get_running_loop().time
        self._addresses.begins(port, self._address)
        try:
            opened = await self._connect()
        except BaseException:
            self._addresses.fails(port, self._address)
            raise
        self._addresses.succeeds(port, self._address, now())
        opened.when_lost(lambda: self._lost(now()))
        return opened

    def _lost(self, now: float) -> None:
        if pair := self._addresses.lost((self._url.iqn, self._identity), self._address, now):
            log.warning(
                "A target ends a session of a guest whenever another session of the guest logs in.",
                guest=self._identity.guest,
                reason=_one_target(self._identity, self._url.iqn, pair),
            )

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
        self._addresses.leaves((self._url.iqn, self._identity), self._address)
        if self._initiator is not None:
            with contextlib.suppress(IscsiError, OSError):
                await self._initiator.close()
            self._initiator = None


def _one_target(identity: InitiatorIdentity, iqn: str, pair: tuple[str, str]) -> str:
    return (
        f"guest {identity.guest}: {pair[0]} and {pair[1]} are two addresses of one target, {iqn}: each login "
        "by one of them ends the session by the other, and the guest's commands wait. Write all drives of "
        "the guest on that target with one address"
    )


class IscsiSessions:
    """The sessions of one process. Every path gets its session here, so paths to one target share one."""

    def __init__(self, timeout: float = 10.0) -> None:
        """``timeout``: the seconds for connecting and logging in."""
        self.timeout = timeout
        self._sessions: dict[tuple[str, int, str, InitiatorIdentity], _SharedSession] = {}
        self._addresses: TwoAddresses[_Port] = TwoAddresses()

    @property
    def warnings(self) -> Iterator[str]:
        """A sentence for each guest that was seen to reach one target by two addresses."""
        for (iqn, identity), pair in self._addresses.found():
            yield _one_target(identity, iqn, pair)

    def path(self, url: IscsiUrl, identity: InitiatorIdentity) -> IscsiPath:
        """A path to the LUN of ``url`` with ``identity``. It connects when the first command comes."""
        key = (url.host, url.port, url.iqn, identity)
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = _SharedSession(url, identity, self.timeout, self._addresses)
        session.users += 1
        return IscsiPath(url, session, lambda: self._release(key))

    async def _release(self, key: tuple[str, int, str, InitiatorIdentity]) -> None:
        session = self._sessions.get(key)
        if session is None:
            return
        session.users -= 1
        if session.users == 0:
            del self._sessions[key]
            await session.close()


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

    @property
    def relays(self) -> tuple[IscsiInitiator, int] | None:
        """The initiator and the number of the LUN, if its session takes relayed commands now."""
        initiator = self._session.initiator
        if initiator is None or not initiator.relays:
            return None
        return initiator, self._url.lun

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
