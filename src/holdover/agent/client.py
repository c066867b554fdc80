"""Asks an agent, over its API.

Connections are kept open and warm: the guest stands still while an agent is asked, for one round trip and not
for those of TCP and TLS.
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import aiohttp
import msgspec
from yarl import URL

from holdover.agent.api import (
    GuestState,
    HandoverRequest,
    HandoverState,
    HostState,
    PeerMessage,
    PeerState,
    PrepareRequest,
    Problem,
    Stale,
)
from holdover.agent.config import ConfigError, parse_api
from holdover.agent.idle import CLIENT_SECONDS, keep_alive
from holdover.agent.tls import ClientTls, explain
from holdover.handover.protocol import Answer

__all__ = ["AgentClient", "AgentError", "AgentRefused"]

T = TypeVar("T")


class AgentError(Exception):
    """An agent could not be asked, or its answer did not come: what it did is in doubt."""


class AgentRefused(AgentError):
    """The agent answered that it did not do what was asked; `problem` says why."""

    def __init__(self, api: str, problem: Problem) -> None:
        self.problem = problem
        where = f"{problem.host} ({api})" if problem.host else api
        step = f" {problem.step.upper()}" if problem.step else ""
        super().__init__(f"{where}{step}: {problem.error}")


class AgentClient:
    """One agent, by the address of its API (HOST:PORT, https://HOST:PORT or unix:PATH)."""

    def __init__(self, api: str, timeout: float = 60.0, tls: ClientTls | None = None) -> None:
        """``timeout``: seconds for each request. Without ``tls``: plain, on this machine alone.

        Raises:
            ConfigError: ``api`` is no such address, or needs TLS and there is none.
        """
        address = parse_api(api, "API")
        self.api = str(address)
        self._socket = address.where if isinstance(address.where, Path) else None
        self._tls = None if self._socket is not None or address.tls is False else tls
        if self._tls is None and (address.tls or not address.local):
            raise ConfigError(
                f"API: {api}: an agent that other machines can reach wants to know who asks; give "
                "--certificate, --key and --ca (holdover ca issue makes them)"
            )
        scheme = "http" if self._tls is None else "https"
        self._base = f"{scheme}://{'localhost' if self._socket is not None else self.api}"
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None

    async def guests(self) -> HostState:
        """The host and all its guests."""
        return await self._ask("GET", "/guests", HostState)

    async def guest(self, name: str) -> GuestState:
        """One guest."""
        return await self._ask("GET", f"/guests/{quote(name, safe='')}", GuestState)

    async def handover(self, guest: str) -> HandoverState:
        """The newest handover of a guest on this host.

        Raises:
            AgentRefused: There was none.
            AgentError: The agent cannot be asked.
        """
        return await self._ask("GET", f"{_of(guest)}/handover", HandoverState)

    async def prepare(self, guest: str, handover: str, to: str, stale: Stale = Stale.REREAD) -> HandoverState:
        """Begin a handover of a guest to a peer; returns when it is prepared. Like all of these, it may be
        repeated.

        Raises:
            AgentRefused: It was not prepared.
            AgentError: Whether it was is in doubt.
        """
        body = msgspec.json.encode(PrepareRequest(handover=handover, to=to, stale=stale))
        return await self._ask("POST", f"{_of(guest)}/handover/prepare", HandoverState, body)

    async def commit(self, guest: str, handover: str) -> HandoverState:
        """The guest has stopped: move everything. Raises as `prepare`."""
        return await self._go_on(guest, "commit", handover)

    async def roll_back(self, guest: str, handover: str, *, alone: bool = False) -> HandoverState:
        """The guest stays; ``alone``: do not wait for the destination. Raises as `prepare`."""
        return await self._go_on(guest, "rollback", handover, alone=alone)

    async def finish(self, guest: str, handover: str) -> HandoverState:
        """The guest runs on the destination. Raises as `prepare`."""
        return await self._go_on(guest, "finish", handover)

    async def take(self, guest: str, handover: str) -> HandoverState:
        """To the destination's agent: the source is dead, move everything without it. Raises as `prepare`."""
        return await self._go_on(guest, "take", handover)

    async def tell(self, message: PeerMessage) -> Answer:
        """One agent to another.

        Raises:
            AgentError: No answer; repeating the message is harmless.
        """
        return await self._ask("POST", "/peer/handover", Answer, msgspec.json.encode(message))

    async def peer_state(self, handover: str) -> PeerState:
        """Where a handover stands whose source this agent is. Raises as `tell`."""
        return await self._ask("GET", f"/peer/handover/{quote(handover, safe='')}", PeerState)

    async def _go_on(self, guest: str, what: str, handover: str, *, alone: bool = False) -> HandoverState:
        body = msgspec.json.encode(HandoverRequest(handover=handover, alone=alone))
        return await self._ask("POST", f"{_of(guest)}/handover/{what}", HandoverState, body)

    async def _ask(self, method: str, path: str, answer: type[T], body: bytes | None = None) -> T:
        status, content = await self._exchange(method, path, body)
        try:
            if status != 200:
                raise AgentRefused(self.api, msgspec.json.decode(content, type=Problem))
            return msgspec.json.decode(content, type=answer)
        except msgspec.DecodeError as error:
            raise AgentError(f"what answers at {self.api} is not a Holdover agent ({error})") from error

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        if self._session is None:
            self._session = self._open()
        try:
            async with self._session.request(
                method,
                URL(self._base + path, encoded=True),
                data=body,
                headers={"content-type": "application/json"} if body is not None else None,
                allow_redirects=False,
                server_hostname=self._tls.server_name if self._tls is not None else None,
            ) as response:
                return response.status, await response.read()
        except TimeoutError as error:
            raise AgentError(
                f"agent at {self.api}: no answer within {self._timeout.total:g} s; what it did is in doubt"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise AgentError(f"agent at {self.api}: {self._reason(error)}") from error

    def _open(self) -> aiohttp.ClientSession:
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
            connector=connector, timeout=self._timeout, cookie_jar=aiohttp.DummyCookieJar()
        )

    def _reason(self, error: BaseException) -> str:
        refused = explain(error)
        if refused is not None:
            return refused
        hint = "is it running, and is this its --api?"
        if self._tls is not None:
            # an agent closes the connection upon a certificate that it refuses, and does not say why
            hint += (
                " Or it refuses our certificate, which must come from the authority in its api.ca and not "
                "have ended (holdover ca show)"
            )
        elif self._socket is None:
            hint += " Or does it want to know who asks (--certificate, --key, --ca)?"
        what = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorError):
            what = f"cannot connect, {error.os_error.strerror or 'it closes the connection at once'}"
        return f"{what}; {hint}"

    async def close(self) -> None:
        """Close the connections."""
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
