"""Asks an agent for something, over its API.

Connections stay open. A guest stands still while an agent is asked. An open connection needs one round trip
for that, and not the further round trips of TCP and TLS.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import quote

import msgspec

from holdover.api.documents import (
    ExportSecret,
    GuestRegistrants,
    GuestState,
    HandoverRequest,
    HandoverState,
    HistoryList,
    HostState,
    PeerMessage,
    PeerState,
    PrepareRequest,
    Problem,
    ReadinessState,
    Stale,
)
from holdover.api.keep_alive import CLIENT_SECONDS, keep_alive
from holdover.api.libvirt_documents import GuestAnswer, GuestQuestion
from holdover.api.message_frames import FrameKind
from holdover.api.message_stream import MessageStream, NoStream, StreamLost
from holdover.api.migration_documents import (
    GuestStarted,
    MigrationCancel,
    MigrationChange,
    MigrationList,
    MigrationRequest,
    MigrationState,
    QemuAction,
    QemuAnswer,
    QemuRequest,
    SendRequest,
    StartRequest,
)
from holdover.api.placement_documents import (
    AttachDisk,
    Declaration,
    DetachDisk,
    HostDeclaration,
    HostList,
    PlaceAnswer,
    PlacementResult,
    PlaceQuestion,
)
from holdover.config.address import parse_host_port
from holdover.config.agent_file import ConfigError, parse_api
from holdover.handover.protocol import Answer
from holdover.handover.states import MessageKind
from holdover.pki.tls import ClientTls, explain

if TYPE_CHECKING:
    import aiohttp

T = TypeVar("T")

_NO_STREAM_SECONDS = 600.0
"""How long an agent that has no streams is asked for none."""


class AgentError(Exception):
    """An agent could not be asked, or its answer did not come. What the agent did is in doubt."""


class AgentRefused(AgentError):
    """The agent answered that it did not do what was asked; `problem` says why."""

    def __init__(self, api: str, problem: Problem) -> None:
        self.problem = problem
        where = f"{problem.host} ({api})" if problem.host else api
        step = f" {problem.step.upper()}" if problem.step else ""
        super().__init__(f"{where}{step}: {problem.detail}")


class AgentClient:
    """A client of one agent, by the address of its API (unix:PATH, or HOST:PORT with certificates)."""

    def __init__(self, api: str, timeout: float = 60.0, tls: ClientTls | None = None) -> None:
        """``timeout``: the seconds for each request. Without ``tls``, only a Unix socket is possible.

        Raises:
            ConfigError: ``api`` is not such an address, or it needs TLS and ``tls`` is None.
        """
        address = parse_api(api, "API")
        self.api = str(address)
        self._socket = address.where if isinstance(address.where, Path) else None
        self._tls = None if self._socket is not None else tls
        if self._socket is None and tls is None:
            raise ConfigError(
                f"API: {api}: over TCP an agent needs a certificate; give --certificate, --key and --ca "
                "(holdover ca issue makes them), or ask it at its Unix socket, unix:/PATH, on its own machine"
            )
        self._base = f"https://{self.api}" if self._socket is None else "http://localhost"
        self._timeout = timeout
        self._session: aiohttp.ClientSession | None = None
        self._stream: MessageStream | None = None
        self._opening: asyncio.Task[None] | None = None
        self._no_stream_until = 0.0

    async def guests(self) -> HostState:
        """The state of the host and of all its guests."""
        return await self._ask("GET", "/guests", HostState)

    async def history(self, name: str = "", since: float = 0.0, limit: int = 1000) -> HistoryList:
        """What changed the reservations of a guest or on a LUN; all if ``name`` is empty."""
        query = f"name={quote(name, safe='')}&since={since}&limit={limit}"
        return await self._ask("GET", f"/history?{query}", HistoryList)

    async def ready(self) -> ReadinessState:
        """Whether the agent can do its work, part by part."""
        status, content = await self._exchange("GET", "/readyz", None)
        # 503 stands for an agent that is not ready, and the document says why
        return self._decoded(200 if status == 503 else status, content, ReadinessState)

    async def guest(self, name: str) -> GuestState:
        """The state of one guest."""
        return await self._ask("GET", f"/guests/{quote(name, safe='')}", GuestState)

    async def registrants(self, guest: str) -> GuestRegistrants:
        """What the LUNs of a guest say of their registrations now. Raises as `handover`."""
        return await self._ask("GET", f"{_of(guest)}/registrants", GuestRegistrants)

    async def secret(self, guest: str) -> ExportSecret:
        """What a guest's QEMU needs to log in to the guest's export. Raises as `handover`."""
        return await self._ask("GET", f"{_of(guest)}/secret", ExportSecret)

    async def handover(self, guest: str) -> HandoverState:
        """The newest handover of a guest on this host.

        Raises:
            AgentRefused: There was no handover of this guest.
            AgentError: The agent cannot be asked.
        """
        return await self._ask("GET", f"{_of(guest)}/handover", HandoverState)

    async def prepare(
        self, guest: str, handover_id: str, to: str, stale: Stale = Stale.REREAD
    ) -> HandoverState:
        """Begin a handover of a guest to a peer. Returns when the handover is prepared.

        This request, like all requests of this class, may be repeated.

        Raises:
            AgentRefused: The handover was not prepared.
            AgentError: Whether it was prepared is in doubt.
        """
        body = msgspec.json.encode(PrepareRequest(handover_id=handover_id, to=to, stale=stale))
        return await self._ask("POST", f"{_of(guest)}/handover/prepare", HandoverState, body)

    async def commit(self, guest: str, handover_id: str) -> HandoverState:
        """Move all reservations; the guest has stopped. Raises as `prepare`."""
        return await self._go_on(guest, "commit", handover_id)

    async def roll_back(self, guest: str, handover_id: str, *, alone: bool = False) -> HandoverState:
        """Keep the guest on the source; ``alone``: do not wait for the destination. Raises as `prepare`."""
        return await self._go_on(guest, "rollback", handover_id, alone=alone)

    async def finish(self, guest: str, handover_id: str) -> HandoverState:
        """End the handover; the guest runs on the destination. Raises as `prepare`."""
        return await self._go_on(guest, "finish", handover_id)

    async def take(self, guest: str, handover_id: str) -> HandoverState:
        """Ask the destination's agent to move everything, as the source is dead. Raises as `prepare`."""
        return await self._go_on(guest, "take", handover_id)

    async def tell(self, message: PeerMessage) -> Answer:
        """Send a message of one agent to another, and return the answer.

        Raises:
            AgentError: There is no answer. It is safe to repeat the message.
        """
        body, stream = msgspec.json.encode(message), self._stream
        if stream is not None and stream.has_room:
            with contextlib.suppress(StreamLost):  # the message may be repeated, so a request follows
                return await self._ask_by(stream, FrameKind.MESSAGE, body, Answer)
        elif message.message.kind is MessageKind.PREPARE:
            self._open_stream_soon()
        return await self._ask("POST", "/peer/handover", Answer, body)

    async def _ask_by(self, stream: MessageStream, kind: FrameKind, body: bytes, answer: type[T]) -> T:
        try:
            async with asyncio.timeout(self._timeout):
                frame = await stream.ask(body, kind)
        except TimeoutError as error:
            raise self._unanswered() from error
        return self._decoded(200 if frame.kind is FrameKind.ANSWER else 409, frame.body, answer)

    def _open_stream_soon(self) -> None:
        """Open the stream for the messages that follow, unless it is open or was refused a while ago."""
        tls, now = self._tls, time.monotonic()
        is_opening = self._opening is not None and not self._opening.done()
        if tls is None or tls.stream is None or is_opening or now < self._no_stream_until:
            return
        self._opening = asyncio.ensure_future(self._open_stream(tls.stream, tls.server_name))

    async def _open_stream(self, context: ssl.SSLContext, name: str | None) -> None:
        where = parse_host_port(self.api, "API")
        try:
            self._stream = await MessageStream.open(where.host, where.port, context, name)
        except NoStream:
            self._no_stream_until = time.monotonic() + _NO_STREAM_SECONDS

    async def peer_state(self, handover_id: str) -> PeerState:
        """The state of a handover whose source is this agent. Raises as `tell`."""
        return await self._ask("GET", f"/peer/handover/{quote(handover_id, safe='')}", PeerState)

    async def migrate(self, guest: str, request: MigrationRequest) -> MigrationState:
        """Begin a migration of a guest; returns at once. With ``dry_run`` it returns what was found.

        Raises:
            AgentRefused: It has not begun, and nothing was changed.
            AgentError: Whether it has begun is in doubt; ask again with the same id.
        """
        return await self._ask(
            "POST", f"{_of(guest)}/migration", MigrationState, msgspec.json.encode(request)
        )

    async def migration(self, guest: str) -> MigrationState:
        """The newest migration of a guest from this host. Raises as `handover`."""
        return await self._ask("GET", f"{_of(guest)}/migration", MigrationState)

    async def migrations(self) -> MigrationList:
        """The newest migration of each guest from this host."""
        return await self._ask("GET", "/migrations", MigrationList)

    async def cancel_migration(self, guest: str, migration_id: str = "") -> MigrationState:
        """Let a guest stay whose migration is under way; returns when the migration has turned back.

        Raises:
            AgentRefused: It is too late, or there is no such migration.
            AgentError: Whether it was cancelled is in doubt.
        """
        body = msgspec.json.encode(MigrationCancel(migration_id=migration_id))
        return await self._ask("POST", f"{_of(guest)}/migration/cancel", MigrationState, body)

    async def change_migration(self, guest: str, change: MigrationChange) -> MigrationState:
        """Change a migration that is under way. Raises as `cancel_migration`."""
        body = msgspec.json.encode(change)
        return await self._ask("POST", f"{_of(guest)}/migration/change", MigrationState, body)

    async def start_guest(self, guest: str, request: StartRequest) -> GuestStarted:
        """Bring a guest that runs nowhere to this agent's host.

        Raises:
            AgentRefused: It may run elsewhere, or cannot come.
            AgentError: Whether it has come is in doubt; ask again.
        """
        return await self._ask("POST", f"{_of(guest)}/start", GuestStarted, msgspec.json.encode(request))

    async def send_guest(self, request: SendRequest) -> None:
        """Ask a peer for a guest that does not run there. Raises as `start_guest`."""
        await self._ask("POST", "/peer/guest", SendRequest, msgspec.json.encode(request))

    async def qemu(self, request: QemuRequest) -> QemuAnswer:
        """Ask the agent of a migration's destination about its QEMU. Raises as `tell`."""
        body, stream = msgspec.json.encode(request), self._stream
        # while the guest stands still, this is asked for it alone
        if request.action is QemuAction.RUN and stream is not None and stream.has_room_to_wait:
            with contextlib.suppress(StreamLost):  # it may be repeated, so a request follows
                return await self._ask_by(stream, FrameKind.QEMU, body, QemuAnswer)
        return await self._ask("POST", "/peer/migration", QemuAnswer, body)

    async def declare(self, declaration: Declaration) -> Declaration:
        """Tell another agent whether its host is declared dead here. Raises as `tell`."""
        return await self._ask("POST", "/peer/declaration", Declaration, msgspec.json.encode(declaration))

    async def hosts(self) -> HostList:
        """The peers of the agent's host. Raises as `guests`."""
        return await self._ask("GET", "/hosts", HostList)

    async def declare_host(self, host: str, declaration: HostDeclaration) -> HostList:
        """Have the agent put on record that a peer of its host is dead, or alive again.

        Raises:
            AgentRefused: It is not on record; the error says why.
            AgentError: Whether it is on record is in doubt; ask again.
        """
        path = f"/hosts/{quote(host, safe='')}/declaration"
        return await self._ask("POST", path, HostList, msgspec.json.encode(declaration))

    async def release_guest(self, guest: str) -> PlacementResult:
        """Remove a guest's registrations by the agent's host from its LUNs. Raises as `start_guest`."""
        return await self._ask("POST", f"{_of(guest)}/release", PlacementResult, b"{}")

    async def forget_guest(self, guest: str) -> PlacementResult:
        """Remove a guest that has nothing from the agent's record. Raises as `start_guest`."""
        return await self._ask("POST", f"{_of(guest)}/forget", PlacementResult, b"{}")

    async def attach_disk(self, guest: str, request: AttachDisk) -> PlacementResult:
        """Give the export of a guest one more disk. Raises as `start_guest`."""
        return await self._ask(
            "POST", f"{_of(guest)}/attach-disk", PlacementResult, msgspec.json.encode(request)
        )

    async def detach_disk(self, guest: str, request: DetachDisk) -> PlacementResult:
        """Take a disk away from the export of a guest. Raises as `start_guest`."""
        return await self._ask(
            "POST", f"{_of(guest)}/detach-disk", PlacementResult, msgspec.json.encode(request)
        )

    async def place(self, question: PlaceQuestion) -> PlaceAnswer:
        """Ask another agent whether a guest is there. Raises as `tell`."""
        return await self._ask("POST", "/peer/place", PlaceAnswer, msgspec.json.encode(question))

    async def ask_about(self, question: GuestQuestion) -> GuestAnswer:
        """Ask another agent about a guest of libvirt's. Raises as `tell`."""
        return await self._ask("POST", "/peer/libvirt", GuestAnswer, msgspec.json.encode(question))

    async def _go_on(self, guest: str, what: str, handover_id: str, *, alone: bool = False) -> HandoverState:
        body = msgspec.json.encode(HandoverRequest(handover_id=handover_id, alone=alone))
        return await self._ask("POST", f"{_of(guest)}/handover/{what}", HandoverState, body)

    async def _ask(self, method: str, path: str, answer: type[T], body: bytes | None = None) -> T:
        status, content = await self._exchange(method, path, body)
        return self._decoded(status, content, answer)

    def _decoded(self, status: int, content: bytes, answer: type[T]) -> T:
        try:
            if status != 200:
                raise AgentRefused(self.api, msgspec.json.decode(content, type=Problem))
            return msgspec.json.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise AgentError(f"what answers at {self.api} is not a Holdover agent ({error})") from error

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        import aiohttp  # its import takes a tenth of a second, which a guest waits for when an agent starts
        from yarl import URL

        if self._session is None:
            self._session = self._open()
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers=self._headers(body),
                allow_redirects=False,
                server_hostname=self._tls.server_name if self._tls is not None else None,
            ) as response:
                return response.status, await response.read()
        except TimeoutError as error:
            raise self._unanswered() from error
        except (aiohttp.ClientError, OSError) as error:
            raise AgentError(f"agent at {self.api}: {self._reason(error)}") from error

    def _unanswered(self) -> AgentError:
        return AgentError(
            f"agent at {self.api}: no answer within {self._timeout:g} s; whether it did what was "
            "asked is not known"
        )

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = {"content-type": "application/json"} if body is not None else {}
        # the name is always in the agent's certificate; the address may not be
        if self._tls is not None and self._tls.server_name is not None:
            headers["host"] = self._tls.server_name
        return headers

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        connector: aiohttp.BaseConnector
        if self._socket is not None:
            connector = aiohttp.UnixConnector(str(self._socket), keepalive_timeout=CLIENT_SECONDS)
        else:
            connector = aiohttp.TCPConnector(
                ssl=self._tls.context if self._tls is not None else True,
                keepalive_timeout=CLIENT_SECONDS,
                limit=0,
                socket_factory=_kept_alive_socket,
            )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    def _reason(self, error: BaseException) -> str:
        import aiohttp

        refused = explain(error)
        if refused is not None:
            return refused
        hint = "is it running, and is this its --api?"
        if self._tls is not None:
            # an agent that refuses a certificate closes the connection and does not say why
            hint += (
                " Or it refuses our certificate, which must come from the authority in its api.ca and not "
                "have ended (holdover ca show)"
            )
        what = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorError):
            what = f"cannot connect, {error.os_error.strerror or 'it closes the connection at once'}"
        return f"{what}; {hint}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections to the agent."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        if self._session is not None:
            await self._session.close()
            self._session = None


def _of(guest: str) -> str:
    return f"/guests/{quote(guest, safe='')}"


def _kept_alive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    keep_alive(made)
    return made
