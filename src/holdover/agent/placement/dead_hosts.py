"""The hosts that somebody has declared dead, on record; and what other hosts have declared of this one.

A declaration is the word of an operator, or of a fence agent: the host is fenced, and no guest runs there.
From then on its guests may be taken. A host that comes back hears of its declaration: it asks all peers when
it starts, and the host that has declared it dead tells it. It keeps the gates of its guests shut until it is
declared alive and its guests are started again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import structlog

from holdover.agent.state_file import StateFile
from holdover.api.client import AgentError, AgentRefused
from holdover.api.peer_hosts import PeerClient
from holdover.api.placement_documents import DeadHost, Declaration, PlaceAnswer, PlaceQuestion
from holdover.config.agent_file import AgentConfig

log = structlog.get_logger()

_AGAIN = 5.0
"""The seconds from one try to the next to reach a peer."""
_BRIEFLY = 2.0
"""The seconds that a peer has to answer."""


class DeclarationRefused(Exception):
    """A host is not declared; the message says why, and what to do."""


class _Record(msgspec.Struct, kw_only=True):
    """What is on record.

    Attributes:
        boot: The boot of this system in which the agent ran last.
        dead: By host: the declarations of this agent.
        declared_by: By peer: its declaration that this host is dead.
        initiators: By peer: the initiator name of its agent, as it said last.
    """

    boot: str = ""
    dead: dict[str, DeadHost] = {}
    declared_by: dict[str, DeadHost] = {}
    initiators: dict[str, str] = {}


class DeadHosts:
    """The declarations that this host has made and heard."""

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        peer: Callable[[str], PeerClient],
        clock: Callable[[], float],
        boot: str,
        shut: Callable[[], Awaitable[None]],
    ) -> None:
        """``peer`` returns the client of a peer's agent. ``boot`` is the id of this boot; empty: keep nothing
        on record, and ask nobody. ``shut`` shuts the gates of all guests."""
        self._config = config
        self._peer = peer
        self._clock = clock
        self._boot = boot
        self._shut = shut
        self._file = StateFile(Path(config().state_dir) / "hosts.json")
        self._record = _read(self._file.file) if boot else _Record()
        self._is_new_boot = bool(boot and self._record.boot and self._record.boot != boot)
        self._silent: set[str] = set()
        self._untold: set[str] = set(self._record.dead)
        self._all_asked = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what is known ------------------------------------------------------------------------------

    @property
    def dead(self) -> frozenset[str]:
        """The hosts that are declared dead here."""
        return frozenset(self._record.dead)

    @property
    def declared_by(self) -> dict[str, DeadHost]:
        """By peer: its declaration that this host is dead."""
        return self._record.declared_by

    def declaration(self, host: str) -> DeadHost | None:
        """The declaration of a host; None if it is not declared dead here."""
        return self._record.dead.get(host)

    def initiator(self, host: str) -> str:
        """The initiator name that a peer said last; empty if it never said one."""
        return self._record.initiators.get(host, "")

    def refusal_of(self, host: str) -> str:
        """Why no guest may go to a host; empty if it may."""
        each = self._record.dead.get(host)
        if each is None:
            return ""
        return (
            f"{host} is declared dead on {self._config().name} ({_who(each)}), so no guest goes there; when "
            f"it is repaired: holdover host declare-alive {host}"
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What an operator must know."""
        here = self._config().name
        found = [
            f"{host} is declared dead ({_who(each)}); when it is repaired: holdover host declare-alive {host}"
            for host, each in self._record.dead.items()
        ]
        found += [
            f"{peer} has declared this host dead ({_who(each)}): the guests here are shut. When {here} is "
            f"sound, on {peer}: holdover host declare-alive {here}; then here, for each guest that belongs "
            "here: holdover guest start GUEST"
            for peer, each in self._record.declared_by.items()
        ]
        if self.waits:
            silent = ", ".join(sorted(self._silent))
            found.append(
                f"this host was started again, and {silent} has not said yet whether its guests were taken: "
                f"the exports open when it has. If {silent} is dead: holdover host declare-dead {silent}"
            )
        return tuple(found)

    # -- declared here ------------------------------------------------------------------------------

    async def declare_dead(self, host: str, by: str, why: str) -> DeadHost:
        """Put on record that a peer is dead.

        Raises:
            DeclarationRefused: It is no peer, its agent answers, or it cannot be put on record.
        """
        self._require_peer(host)
        known = self._record.dead.get(host)
        if known is not None:
            return known
        if await self._answers(host):
            raise DeclarationRefused(
                f"{host} is not declared dead: its agent answers. Its guests are fetched without that: "
                f"holdover guest start GUEST. If {host} must go, fence it first"
            )
        declared = DeadHost(host=host, by=by, at=self._clock(), why=why)
        self._record.dead[host] = declared
        try:
            await self._save()
        except OSError as error:
            del self._record.dead[host]
            raise DeclarationRefused(f"{host} is not declared dead: {error}") from error
        log.warning("A host is declared dead.", host=host, by=by, reason=why)
        self._silent.discard(host)
        self._note_asked()
        self._untold.add(host)
        self._spawn(self._tell(host))
        return declared

    async def declare_alive(self, host: str, by: str) -> None:
        """Undo `declare_dead`.

        Raises:
            DeclarationRefused: It was not declared dead, or this cannot be put on record.
        """
        self._require_peer(host)
        declared = self._record.dead.pop(host, None)
        if declared is None:
            raise DeclarationRefused(f"{host} is not declared dead on {self._config().name}")
        try:
            await self._save()
        except OSError as error:
            self._record.dead[host] = declared
            raise DeclarationRefused(f"{host} stays declared dead: {error}") from error
        log.warning("A host is declared alive.", host=host, by=by)
        self._untold.add(host)
        self._spawn(self._tell(host))

    def _require_peer(self, host: str) -> None:
        names = [peer.name for peer in self._config().peer]
        if host not in names:
            raise DeclarationRefused(
                f"{self._config().name} has no [[peer]] {host!r}; it has: {', '.join(names) or 'none'}"
            )

    async def _answers(self, host: str) -> bool:
        return not await self.problem(host)

    async def problem(self, host: str) -> str:
        """Why a peer's agent does not answer now; empty if it does."""
        try:
            await self._ask(host)
        except AgentRefused:
            return ""
        except (AgentError, TimeoutError) as error:
            return str(error) or f"it has not answered within {_BRIEFLY:g} s"
        return ""

    async def _tell(self, host: str) -> None:
        """Tell a host of its declaration as soon as it answers."""
        while host in self._untold:
            news = Declaration(dead=self._record.dead.get(host))
            try:
                async with asyncio.timeout(_BRIEFLY):
                    await self._peer(host).declare(news)
                if news.dead == self._record.dead.get(host):
                    self._untold.discard(host)
            except AgentRefused:
                self._untold.discard(host)
            except (AgentError, TimeoutError):
                await asyncio.sleep(_AGAIN)

    # -- heard from peers ---------------------------------------------------------------------------

    async def receive(self, sender: str, dead: DeadHost | None) -> None:
        """A peer says that it has declared this host dead, or that it has not.

        Raises:
            OSError: This cannot be put on record.
        """
        before = self._record.declared_by.get(sender)
        if before == dead:
            return
        if dead is None:
            del self._record.declared_by[sender]
            log.warning("This host is not declared dead any more.", peer=sender)
        else:
            self._record.declared_by[sender] = dead
            log.warning("This host is declared dead; its guests are shut.", peer=sender, by=dead.by)
            await self._shut()
        await self._save()

    async def note(self, peer: str, answer: PlaceAnswer) -> None:
        """Note what a peer's answer says of itself and of this host."""
        if answer.initiator and self._record.initiators.get(peer) != answer.initiator:
            self._record.initiators[peer] = answer.initiator
            await self._save()
        await self.receive(peer, answer.dead)

    # -- at the start -------------------------------------------------------------------------------

    @property
    def waits(self) -> bool:
        """Whether this system was started again, and a peer has not said yet whether it took guests."""
        return self._is_new_boot and bool(self._silent)

    async def start(self) -> None:
        """Begin to ask all peers what they have declared of this host."""
        if not self._boot:
            return
        self._silent = {peer.name for peer in self._config().peer} - self.dead
        self._record.boot = self._boot
        self._note_asked()
        if not self._is_new_boot:
            with contextlib.suppress(OSError):
                await self._save()
        for name in self._silent:
            self._spawn(self._ask_at_start(name))
        for name in self._untold:
            self._spawn(self._tell(name))

    async def all_asked(self) -> None:
        """Wait until every peer that is not declared dead has answered once since the start."""
        await self._all_asked.wait()
        with contextlib.suppress(OSError):
            await self._save()

    def _note_asked(self) -> None:
        if not self._silent:
            self._all_asked.set()

    async def _ask_at_start(self, name: str) -> None:
        while name in self._silent:
            try:
                await self.note(name, await self._ask(name))
            except AgentRefused:
                break  # it answers, and knows no declarations
            except (AgentError, TimeoutError, OSError):
                await asyncio.sleep(_AGAIN)
            else:
                break
        self._silent.discard(name)
        self._note_asked()

    async def _ask(self, name: str) -> PlaceAnswer:
        async with asyncio.timeout(_BRIEFLY):
            return await self._peer(name).place(PlaceQuestion(guest=""))

    async def _save(self) -> None:
        if self._boot:
            await self._file.write(msgspec.json.encode(self._record))

    def _spawn(self, what: Awaitable[None]) -> None:
        task = asyncio.ensure_future(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Ask and tell nobody any more."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _who(declared: DeadHost) -> str:
    return f"by {declared.by}{f': {declared.why}' if declared.why else ''}"


def _read(file: Path) -> _Record:
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Record)
    except FileNotFoundError:
        return _Record()
    except (OSError, msgspec.DecodeError) as error:
        log.error("Which hosts are declared dead cannot be read.", file=str(file), reason=str(error))
        return _Record()
