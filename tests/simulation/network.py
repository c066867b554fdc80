"""The requests between agents, and of operators to agents: delayed, lost, doubled, late, and parted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol, TypeVar

import msgspec

from holdover.agent.handover.handovers import HandoverProblem
from holdover.agent.host import Host
from holdover.api.client import AgentError, AgentRefused
from holdover.api.documents import HostState, PeerMessage, PeerState
from holdover.api.libvirt_documents import GuestAnswer, GuestQuestion
from holdover.api.migration_documents import QemuAnswer, QemuRequest, SendRequest
from holdover.api.placement_documents import Declaration, PlaceAnswer, PlaceQuestion
from holdover.handover.protocol import Answer
from tests.simulation.clockwork import Process
from tests.simulation.rates import NONE
from tests.simulation.transcript import Transcript

T = TypeVar("T")

_QUICK = 2000.0
_SHORT = 0.02
"""How likely an agent that is short of memory has none for a request."""

_TIMEOUT = 60.0
"""The seconds after which a client of an agent gives a request up."""


@dataclass(frozen=True, slots=True)
class Told:
    """A message of one agent to another, as it was sent."""

    by: str
    to: str
    message: bytes


class Server(Protocol):
    """A host, as others reach it."""

    name: str
    process: Process | None
    host: Host | None


class Network:
    """What carries requests.

    Attributes:
        cut: The pairs of hosts that cannot reach one another.
        told: The messages of agents so far; empty where nobody wants them.
        remembers: Whether somebody does.
        versions: The API version of a host, where it is not this one.
        short_of_memory: Whether the agents have no memory for a request now and then.
    """

    def __init__(self, world: Process, random: Random, log: Transcript) -> None:
        self.rates = NONE
        self.cut: set[frozenset[str]] = set()
        self.servers: dict[str, Server] = {}
        self.told: list[Told] = []
        self.remembers = False
        self.versions: dict[str, str] = {}
        self.short_of_memory = False
        self._world = world
        self._random = random
        self._log = log
        self._served: dict[Process, dict[asyncio.Future[Any], Process]] = {}

    async def call(
        self, caller: Process, by: str, to: str, what: str, serve: Callable[[Host], Awaitable[T]]
    ) -> T:
        """Have ``serve`` run in the agent of host ``to``; return what it returns.

        Raises:
            AgentRefused: The agent has not done it.
            AgentError: No answer came.
        """
        if (
            self.rates is not NONE
            and self.short_of_memory
            and by in self.servers
            and self._random.random() < _SHORT
        ):
            raise MemoryError
        done: asyncio.Future[T] = caller.create_future()
        fate = self._random.random()
        copies = 2 if self._random.random() < self.rates.doubled else 1
        for _ in range(copies):
            if fate >= self.rates.message_lost:
                self._world.call_later(self._delay(), self._arrive, done, caller, by, to, serve)
        if fate < self.rates.message_lost:
            self._log.line(by, f"the network loses {what} to {to}")
            if fate < self.rates.message_lost / 2:
                self._fail(done, caller, f"agent of {to}: the connection was lost")
        elif copies > 1:
            self._log.line(by, f"the network doubles {what} to {to}")
        caller.call_later(_TIMEOUT, self._late, done, to)
        return await done

    def died(self, process: Process) -> None:
        """A process has died: whoever waits for its answer finds the connection closed."""
        for done, caller in self._served.pop(process, {}).items():
            self._fail(done, caller, "the connection was closed")

    def _delay(self) -> float:
        delay = self._random.expovariate(_QUICK)
        if self._random.random() < self.rates.message_slow:
            delay += self._random.random() * 4
        return delay

    def _is_cut(self, by: str, to: str) -> bool:
        return frozenset((by, to)) in self.cut

    def _arrive(
        self,
        done: asyncio.Future[T],
        caller: Process,
        by: str,
        to: str,
        serve: Callable[[Host], Awaitable[T]],
    ) -> None:
        if self._is_cut(by, to):
            return
        server = self.servers[to]
        if server.process is None or server.host is None:
            self._fail(done, caller, f"agent of {to}: cannot connect, connection refused")
            return
        self._served.setdefault(server.process, {})[done] = caller
        server.process.create_task(self._serve(done, caller, by, server, serve))

    async def _serve(
        self,
        done: asyncio.Future[T],
        caller: Process,
        by: str,
        server: Server,
        serve: Callable[[Host], Awaitable[T]],
    ) -> None:
        process, host = server.process, server.host
        assert process is not None
        assert host is not None
        result: T | AgentError
        try:
            result = await serve(host)
        except HandoverProblem as problem:
            result = AgentRefused(server.name, problem.problem)
        except MemoryError:
            result = AgentError(f"agent of {server.name}: it has failed inside")
        self._served.get(process, {}).pop(done, None)
        if self._random.random() < self.rates.message_lost:
            self._log.line(server.name, f"the network loses an answer to {by}")
            return
        self._world.call_later(self._delay(), self._answer, done, caller, by, server.name, result)

    def _answer(
        self, done: asyncio.Future[T], caller: Process, by: str, to: str, result: T | AgentError
    ) -> None:
        if not self._is_cut(by, to):
            caller.call_soon(_settle, done, result)

    def _fail(self, done: asyncio.Future[Any], caller: Process, why: str) -> None:
        caller.call_later(self._random.expovariate(_QUICK), _settle, done, AgentError(why))

    def _late(self, done: asyncio.Future[Any], to: str) -> None:
        _settle(
            done,
            AgentError(
                f"agent of {to}: no answer within {_TIMEOUT:g} s; whether it did what was asked is not known"
            ),
        )


def _settle(done: asyncio.Future[T], result: T | AgentError) -> None:
    if done.done():
        return
    if isinstance(result, AgentError):
        done.set_exception(result)
    else:
        done.set_result(result)


class Peer:
    """The client of one agent in another agent."""

    def __init__(self, network: Network, caller: Process, by: str, to: str, api: str) -> None:
        self.api = api
        self._network = network
        self._caller = caller
        self._by = by
        self._to = to

    async def tell(self, message: PeerMessage) -> Answer:
        """Send a message of one agent to another; see `AgentClient.tell`."""
        version = self._network.versions.get(self._by, message.version)
        sent = msgspec.json.encode(msgspec.structs.replace(message, version=version))
        if self._network.remembers:
            self._network.told.append(Told(self._by, self._to, sent))

        async def serve(host: Host) -> bytes:
            heard = msgspec.json.decode(sent, type=PeerMessage)
            return msgspec.json.encode(await host.handovers.receive(heard, self._by))

        what = f"{message.message.kind.name} {message.message.number} of {message.message.handover_id}"
        answer = await self._network.call(self._caller, self._by, self._to, what, serve)
        return msgspec.json.decode(answer, type=Answer)

    async def peer_state(self, handover_id: str) -> PeerState:
        """The state of a handover whose source is the other agent; see `AgentClient.peer_state`."""

        async def serve(host: Host) -> PeerState:
            state = host.handovers.peer_state(handover_id)
            version = self._network.versions.get(self._to, state.version)
            return msgspec.structs.replace(state, version=version)

        what = f"a question about {handover_id}"
        return await self._network.call(self._caller, self._by, self._to, what, serve)

    async def guests(self) -> HostState:
        """The state of the other host; see `AgentClient.guests`."""

        async def serve(host: Host) -> HostState:
            return host.state()

        return await self._network.call(self._caller, self._by, self._to, "a look at its guests", serve)

    async def qemu(self, request: QemuRequest) -> QemuAnswer:
        """There is nothing to ask: the operators of a simulation start and stop guests themselves."""
        raise AgentError(f"agent of {self._to}: {request} is for QEMUs, which have no monitor here")

    async def send_guest(self, request: SendRequest) -> None:
        """There is nothing to ask: no guest of a simulation is started where it does not run."""
        raise AgentError(f"agent of {self._to}: {request} is for guests that run nowhere")

    async def place(self, question: PlaceQuestion) -> PlaceAnswer:
        """What the other host says of a guest; see `AgentClient.place`."""

        async def serve(host: Host) -> PlaceAnswer:
            return host.placement.receive(question, self._by)

        return await self._network.call(self._caller, self._by, self._to, "where a guest is", serve)

    async def declare(self, declaration: Declaration) -> Declaration:
        """There is nothing to ask: no host of a simulation is declared dead."""
        raise AgentError(f"agent of {self._to}: {declaration} is for hosts that are dead")

    async def ask_about(self, question: GuestQuestion) -> GuestAnswer:
        """There is nothing to ask: no guest of a simulation is one of libvirt's."""
        raise AgentError(f"agent of {self._to}: {question} is for guests of libvirt's")

    async def close(self) -> None:
        """Close the connection."""
