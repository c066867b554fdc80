"""An iSCSI target on asyncio: one target name, one portal group, any number of portals, logical units and
sessions."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from holdover.admission.admission import Admission, AdmittedConnection, Allowance
from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.names import MAX_LUN, check_iscsi_name
from holdover.iscsi.negotiation import NegotiationLimits, Parameters
from holdover.iscsi.numbers import LoginStatus
from holdover.iscsi.target.allow_list import AllowList
from holdover.iscsi.target.budget import ByteBudget
from holdover.iscsi.target.connection import TargetConnection
from holdover.iscsi.target.events import LoginCompleted
from holdover.iscsi.target.portals import SocketAddress, format_address, portal_addresses
from holdover.iscsi.target.protocol.login import TargetConfig
from holdover.iscsi.target.protocol.session import TargetSession
from holdover.iscsi.target.refusals import LoginRefusals
from holdover.network.connection_owner import party_of
from holdover.network.listening import OpenListener, listen
from holdover.network.paced_listener import AcceptThrottle, PacedListener
from holdover.network.receive_buffer import receive_buffer
from holdover.scsi.command import DeviceServer
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.service.stored_sockets import new_listener

_ALONE = 1 << 20
"""The most connections of a target that is alone in its process; the target's own limits are lower."""
_KEPT = 8
_MOST_SESSIONS = 65535  # a TSIH has 16 bits (RFC 7143 11.12.6); `max_sessions` is lower
_TARGET_PORT = 1
_BUDGET = 256 << 20
_SESSIONS_PER_LUN = 256  # a cluster of 64 nodes with 4 paths each


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """The description, for people, of one session that reaches logical units (not a discovery session).

    Attributes:
        initiator: Name of the initiator.
        alias: The alias of the initiator, or "".
        isid: The ISID of the initiator, 6 bytes.
        tsih: Number of the session.
        peer, portal: Addresses of both ends, "host:port".
        nexus: The I_T nexus.
        open_commands: The number of commands that were received and not answered.
        parameters: The negotiated parameters.
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
    """The report that a session has begun, or that it has ended, with the reason."""

    session: SessionInfo
    ended: str | None = None


class IscsiTarget:
    """A target.

    Args:
        iqn: Its iSCSI name.
        luns: The logical units by number, 0 to 16383; read for each command, so the mapping may change.
        credentials: The user and the secret that every initiator must prove by CHAP, or None.
        chap_md5: Whether MD5 is accepted for CHAP from an initiator without a stronger algorithm.
        mutual_credentials: The user and the secret that the target proves to initiators that ask, or None.
        allow: The initiators that the target admits; CHAP applies to them too.
        alias: A name for people.
        limits: The wishes for the negotiation.
        max_sessions: The most sessions at one time. The default is 256 for each LUN, because some initiators
            (QEMU) log in once for each of their disks.
        admission: The limits that all front ends of the process share; None when the target is alone in it.
        max_logins: The most connections at one time that have not logged in. When one more comes, the target
            closes the oldest one of the address, or of the user of this host, that has the most of them.
        sessions_option: The option by which the operator allows more sessions; the log names it.
        max_commands: The most commands of one session at one time.
        budget: The limit for the data of all commands of all sessions; 256 MiB of its own by default.
        login_timeout: The most seconds that a login may take.
        ping_interval: The seconds of silence after which an initiator gets a ping; None for never.
        ping_timeout: The seconds in which the initiator must answer, or its session ends. The default lets an
            initiator that is stopped for a minute keep its session, and so its unit attentions.
        on_session: Is called when a session begins and when it has ended.

    Raises:
        IscsiNameError: The name is not an iSCSI name.
        ValueError: A logical unit number is out of range, or the credentials cannot be used together.
    """

    def __init__(
        self,
        iqn: str,
        luns: Mapping[int, DeviceServer],
        *,
        credentials: ChapCredentials | None = None,
        chap_md5: bool = False,
        mutual_credentials: ChapCredentials | None = None,
        allow: AllowList | None = None,
        alias: str | None = None,
        limits: NegotiationLimits | None = None,
        max_sessions: int | None = None,
        sessions_option: str = "max_sessions",
        admission: Admission | None = None,
        max_logins: int = 64,
        max_commands: int = 128,
        budget: ByteBudget | None = None,
        login_timeout: float = 15.0,
        ping_interval: float | None = 15.0,
        ping_timeout: float = 60.0,
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
            chap_md5,
            mutual_credentials,
            limits=limits or NegotiationLimits(),
            max_commands=max_commands,
            budget=budget or ByteBudget(_BUDGET),
        )
        self._max_sessions_given = max_sessions
        self._sessions_option = sessions_option
        self._admission = Admission(_ALONE) if admission is None else admission
        allowance = Allowance(
            strangers=max_logins,
            strangers_each=max_logins,
            known=_MOST_SESSIONS,
            known_each=_MOST_SESSIONS,
            kept=_KEPT + 2 * len(luns),
        )
        self._front_end = self._admission.front_end(f"target {iqn}", allowance)
        self._login_timeout = login_timeout
        self._ping = None if ping_interval is None else (ping_interval, ping_timeout)
        self._on_session = on_session
        self._listeners: dict[socket.socket, PacedListener] = {}
        self._opening: set[asyncio.Task[None]] = set()
        # QEMU logs in once for each of its disks; a login that succeeds does not count
        self._throttle = AcceptThrottle(burst=512, seconds=0.01, burst_each=256, seconds_each=0.02)
        self._connections: set[TargetConnection] = set()
        self._entries: dict[TargetConnection, AdmittedConnection] = {}
        self._strangers: dict[AdmittedConnection, TargetConnection] = {}
        self._sessions: dict[int, TargetConnection] = {}
        self._ports: dict[tuple[str, bytes], TargetConnection] = {}
        self._last_tsih = 0
        self._allow = allow or AllowList()
        self._refusals = LoginRefusals(self.iqn, time.monotonic)

    @property
    def _max_sessions(self) -> int:
        return self._max_sessions_given or _SESSIONS_PER_LUN * max(1, len(self._luns))

    @property
    def iqn(self) -> str:
        """The target's name."""
        return self._config.name

    @property
    def budget(self) -> ByteBudget:
        """The data of all commands of all sessions."""
        return self._config.budget

    @property
    def luns(self) -> Mapping[int, DeviceServer]:
        """The logical units by their numbers."""
        return self._luns

    def serve(self, luns: Mapping[int, DeviceServer]) -> None:
        """Serve these logical units from the next command on; commands under way end where they began."""
        self._luns = luns

    async def start(self, host: str, port: int, open_one: OpenListener = new_listener) -> int:
        """Listen; returns the port, which is a free one when `port` is 0. Each call adds a portal.

        Raises:
            OSError: The target cannot listen on the address.
        """
        listeners = await listen(host, port, open_one)
        for listener in listeners:
            name = f"target {self.iqn} at {format_address(listener.getsockname())}"
            self._listeners[listener] = PacedListener(listener, name, self._throttle, party_of, self._take)
        bound: int = listeners[0].getsockname()[1]
        return bound

    def _take(self, connection: socket.socket, party: str) -> None:
        task = asyncio.ensure_future(self._begin(connection, party))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _begin(self, connection: socket.socket, party: str) -> None:
        loop = asyncio.get_running_loop()
        buffer = receive_buffer(loop)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # it has gone already
            await loop.connect_accepted_socket(
                lambda: TargetConnection(self, party, buffer, self._login_timeout, self._ping, loop),
                connection,
            )

    async def close(self, logout_seconds: int = 1) -> None:
        """Stop listening, ask all initiators to log out within that time, and end all sessions. Returns when
        their last command has stopped.
        """
        for listener, paced in self._listeners.items():
            paced.close()
            listener.close()
        self._listeners.clear()
        await asyncio.gather(
            *(connection.ask_to_leave(logout_seconds) for connection in list(self._connections))
        )
        await asyncio.gather(
            *(connection.shut("the target closes", flush=True) for connection in list(self._connections))
        )
        self._admission.close(self._front_end)

    def sessions(self) -> list[SessionInfo]:
        """The sessions that are logged in, by session number."""
        described = (_describe(self._sessions[tsih]) for tsih in sorted(self._sessions))
        return [info for info in described if info is not None]

    # What connections ask of the target

    def new_session(self, local: SocketAddress) -> TargetSession:
        """The session for a new connection, with its address at this end."""
        listening = [listener.getsockname() for listener in self._listeners]
        return TargetSession(self._config, portal_addresses(listening, local), secrets.token_bytes)

    def connection_opened(self, connection: TargetConnection) -> bool:
        """Note a connection; returns False if its address is not admitted, or if the target closes.

        When too many connections have not logged in, the oldest of them is closed. A login takes only
        moments, so silent connections do not keep others out.
        """
        if not self._listeners:
            return False
        if not self._allow.admits_address(connection.address):
            self._refusals.tell(connection.peer, "its address is not among those that it admits")
            return False
        entry, victim = self._front_end.enter(connection.party)
        if victim is not None:
            self._strangers.pop(victim).give_up("too many connections that have not logged in")
        if entry is None:
            return False
        self._connections.add(connection)
        self._entries[connection] = entry
        self._strangers[entry] = connection
        return True

    async def login_completed(self, connection: TargetConnection, login: LoginCompleted) -> None:
        """Admit an initiator, after the end of its earlier session with the same ISID if there is one
        (session reinstatement, RFC 7143 6.3.5)."""
        if not self._allow.admits_name(login.initiator):
            problem = f"{login.initiator} is not among the initiators that it admits"
            self._refusals.tell(connection.peer, problem)
            connection.refuse(LoginStatus.AUTHORIZATION_FAILURE, problem)
            return
        if login.tsih:
            known = login.tsih in self._sessions
            status = LoginStatus.TOO_MANY_CONNECTIONS if known else LoginStatus.SESSION_DOES_NOT_EXIST
            connection.refuse(status, f"a connection for session {login.tsih}: there is one each")
            return
        port = (login.initiator, login.isid)
        while not login.discovery and (earlier := self._ports.get(port)) is not None:
            await earlier.shut("the initiator logged in again")
        if len(self._sessions) >= self._max_sessions:
            problem = (
                f"{login.initiator} logs in, and there are {self._max_sessions} sessions, the most that it "
                f"takes; to have more, set {self._sessions_option}"
            )
            self._refusals.tell(connection.peer, problem)
            connection.refuse(LoginStatus.OUT_OF_RESOURCES, problem)
            return
        tsih = self._new_tsih()
        nexus = None
        if not login.discovery:
            nexus = ITNexus(IscsiTransportID(login.initiator, login.isid), _TARGET_PORT)
            self._ports[port] = connection
        self._sessions[tsih] = connection
        self._become_known(connection, login)
        connection.admit(nexus, login, tsih)
        self._tell(connection, None)

    def _become_known(self, connection: TargetConnection, login: LoginCompleted) -> None:
        entry = self._entries[connection]
        self._strangers.pop(entry, None)
        entry.known_as(f"initiator {login.initiator}")
        self._throttle.give_back(connection.party)

    def connection_ended(self, connection: TargetConnection, reason: str) -> None:
        """Forget a connection after all its commands have stopped."""
        if connection.session.refused:
            self._refusals.tell(connection.peer, connection.session.refused)
        self._connections.discard(connection)
        entry = self._entries.pop(connection, None)
        if entry is not None:
            self._strangers.pop(entry, None)
            entry.leave()
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
    """The session of a connection, for people; None for a connection that reaches no logical unit."""
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
