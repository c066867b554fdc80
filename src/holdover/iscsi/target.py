"""An iSCSI target on asyncio: one target name, one portal group, any number of portals, logical units and
sessions."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from holdover.iscsi.chap import Credentials
from holdover.iscsi.names import MAX_LUN, check_iscsi_name
from holdover.iscsi.negotiation import Limits, Parameters
from holdover.iscsi.numbers import LoginStatus
from holdover.iscsi.portals import SocketAddress, portal_addresses
from holdover.iscsi.receive_buffer import receive_buffer
from holdover.iscsi.target_connection import TargetConnection
from holdover.iscsi.target_events import LoginCompleted
from holdover.iscsi.target_login import TargetConfig
from holdover.iscsi.target_session import TargetSession
from holdover.scsi.command import DeviceServer
from holdover.scsi.nexus import ITNexus
from holdover.scsi.transport_id import IscsiTransportID

__all__ = ["IscsiTarget", "SessionChange", "SessionInfo"]

_TARGET_PORT = 1
_SESSIONS_PER_LUN = 64


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One session that reaches logical units (no discovery session), for people to look at.

    Attributes:
        initiator: Name of the initiator.
        alias: Its alias, or "".
        isid: Its ISID, 6 bytes.
        tsih: Number of the session.
        peer, portal: Addresses of both ends, "host:port".
        nexus: The I_T nexus.
        open_commands: Commands received and not answered.
        parameters: What was negotiated.
    """

    initiator: str
    alias: str
    isid: bytes
    tsih: int
    peer: str
    portal: str
    nexus: ITNexus
    open_commands: int
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class SessionChange:
    """A session has begun, or has ended for that reason."""

    session: SessionInfo
    ended: str | None = None


class IscsiTarget:
    """A target.

    Args:
        iqn: Its iSCSI name.
        luns: Logical units by number, 0 to 16383; read anew for each command, so it may change.
        credentials: What every initiator must show by CHAP, or None.
        mutual_credentials: What the target shows in return to an initiator that asks, or None.
        alias: Words for people.
        limits: What is wanted in the negotiation.
        max_sessions: Sessions at once, and beside them as many connections that have not logged in; 64 for
            each LUN unless said, since there are initiators (QEMU) that log in once for each of their disks.
        max_commands: Commands of one session at once.
        login_timeout: Seconds that a login may take.
        ping_interval: Seconds of silence after which an initiator is asked for a sign of life; None for
            never.
        ping_timeout: Seconds that it may take to give one before its session is ended.
        on_session: Called when a session begins and when it has ended.

    Raises:
        IscsiNameError: for a name that is none.
        ValueError: for a logical unit number out of range and credentials that cannot serve together.
    """

    def __init__(
        self,
        iqn: str,
        luns: Mapping[int, DeviceServer],
        *,
        credentials: Credentials | None = None,
        mutual_credentials: Credentials | None = None,
        alias: str | None = None,
        limits: Limits | None = None,
        max_sessions: int | None = None,
        max_commands: int = 128,
        login_timeout: float = 15.0,
        ping_interval: float | None = 15.0,
        ping_timeout: float = 30.0,
        on_session: Callable[[SessionChange], None] | None = None,
    ) -> None:
        for number in luns:
            if not 0 <= number <= MAX_LUN:
                raise ValueError(f"logical unit number {number} is not within 0 to {MAX_LUN}")
        self._luns = luns
        self._config = TargetConfig(
            check_iscsi_name(iqn),
            alias,
            credentials,
            mutual_credentials,
            limits=limits or Limits(),
            max_commands=max_commands,
        )
        self._max_sessions_given = max_sessions
        self._login_timeout = login_timeout
        self._ping = None if ping_interval is None else (ping_interval, ping_timeout)
        self._on_session = on_session
        self._servers: list[asyncio.Server] = []
        self._connections: set[TargetConnection] = set()
        self._sessions: dict[int, TargetConnection] = {}
        self._ports: dict[tuple[str, bytes], TargetConnection] = {}
        self._last_tsih = 0

    @property
    def _max_sessions(self) -> int:
        return self._max_sessions_given or _SESSIONS_PER_LUN * max(1, len(self._luns))

    @property
    def iqn(self) -> str:
        """The target's name."""
        return self._config.name

    @property
    def luns(self) -> Mapping[int, DeviceServer]:
        """The logical units by their numbers."""
        return self._luns

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port, which is a free one where `port` is 0. Each call adds a portal.

        Raises:
            OSError: The address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        buffer = receive_buffer(loop)
        server = await loop.create_server(
            lambda: TargetConnection(self, buffer, self._login_timeout, self._ping, loop), host, port
        )
        self._servers.append(server)
        bound: int = server.sockets[0].getsockname()[1]
        return bound

    async def close(self, logout_seconds: int = 1) -> None:
        """Stop listening, ask all initiators to log out and give them that time for it, end all sessions;
        return when their last command has stopped."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        await asyncio.gather(
            *(connection.ask_to_leave(logout_seconds) for connection in list(self._connections))
        )
        await asyncio.gather(
            *(connection.shut("the target closes", flush=True) for connection in list(self._connections))
        )

    def sessions(self) -> list[SessionInfo]:
        """Who is logged in, by session number."""
        described = (_describe(self._sessions[tsih]) for tsih in sorted(self._sessions))
        return [info for info in described if info is not None]

    # What connections ask of the target

    def new_session(self, local: SocketAddress) -> TargetSession:
        """The session for a new connection, with its address at this end."""
        listening = [socket.getsockname() for server in self._servers for socket in server.sockets]
        return TargetSession(self._config, portal_addresses(listening, local), secrets.token_bytes)

    def connection_opened(self, connection: TargetConnection) -> bool:
        """Note a connection; False where there are too many that have not logged in."""
        if not self._servers or len(self._connections) - len(self._sessions) >= self._max_sessions:
            return False
        self._connections.add(connection)
        return True

    async def login_completed(self, connection: TargetConnection, login: LoginCompleted) -> None:
        """Admit an initiator, after the end of its earlier session with the same ISID if there is one
        (session reinstatement, RFC 7143 6.3.5)."""
        if login.tsih:
            known = login.tsih in self._sessions
            status = LoginStatus.TOO_MANY_CONNECTIONS if known else LoginStatus.SESSION_DOES_NOT_EXIST
            connection.refuse(status, f"a connection for session {login.tsih}: there is one each")
            return
        port = (login.initiator, login.isid)
        while not login.discovery and (earlier := self._ports.get(port)) is not None:
            await earlier.shut("the initiator logged in again")
        if len(self._sessions) >= self._max_sessions:
            connection.refuse(LoginStatus.OUT_OF_RESOURCES, f"there are {self._max_sessions} sessions")
            return
        tsih = self._new_tsih()
        nexus = None
        if not login.discovery:
            nexus = ITNexus(IscsiTransportID(login.initiator, login.isid), _TARGET_PORT)
            self._ports[port] = connection
        self._sessions[tsih] = connection
        connection.admit(nexus, login, tsih)
        self._tell(connection, None)

    def connection_ended(self, connection: TargetConnection, reason: str) -> None:
        """Forget a connection, all of whose commands have stopped."""
        self._connections.discard(connection)
        if connection.login is None:
            return
        del self._sessions[connection.tsih]
        if connection.nexus is not None:
            del self._ports[connection.login.initiator, connection.login.isid]
        self._tell(connection, reason)

    def others(self, connection: TargetConnection) -> Iterable[TargetConnection]:
        """The connections of all other sessions."""
        return [other for other in self._sessions.values() if other is not connection]

    def _new_tsih(self) -> int:
        tsih = self._last_tsih
        while tsih == 0 or tsih in self._sessions:
            tsih = (tsih + 1) & 0xFFFF
        self._last_tsih = tsih
        return tsih

    def _tell(self, connection: TargetConnection, ended: str | None) -> None:
        info = _describe(connection)
        if self._on_session is not None and info is not None:
            self._on_session(SessionChange(info, ended))


def _describe(connection: TargetConnection) -> SessionInfo | None:
    """What is to be said of a connection, None for one that reaches no logical unit."""
    login, nexus = connection.login, connection.nexus
    if login is None or nexus is None:
        return None
    return SessionInfo(
        login.initiator,
        login.alias,
        login.isid,
        connection.tsih,
        connection.peer,
        connection.portal,
        nexus,
        connection.session.open_commands,
        connection.session.parameters,
    )
