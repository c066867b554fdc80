"""Two addresses of one iSCSI target: what the ends of sessions tell about them. Pure.

A guest has one initiator port for each target name. If it logs in by two addresses that lead to one target,
each login ends the session by the other address (RFC 7143 6.3.5), without end. Two targets may have one name:
exports of one guest on two hosts have. So only what happens shows whether two addresses lead to one target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_PortT = TypeVar("_PortT")

_SOON = 5.0
"""Seconds after a login within which the end of another session may be its consequence."""

_TURNS = 4
"""How many sessions end so, by the one address and the other in turn, before they count as one target."""


@dataclass(slots=True)
class _Port:
    """One initiator port at one target name.

    Attributes:
        logging_in: The addresses by which a login is under way.
        since: For each address with a session, when its login was complete.
        last: The address of the last session that was lost.
        turns: How many sessions in a row each ended right after a login by another address.
        pair: The two addresses that lead to one target; None while nothing shows that.
    """

    logging_in: set[str] = field(default_factory=set)
    since: dict[str, float] = field(default_factory=dict)
    last: str = ""
    turns: int = 0
    pair: tuple[str, str] | None = None

    def rival(self, address: str, since: float, now: float) -> str | None:
        """The address whose login may have ended the session by ``address``, which had begun at ``since``."""
        for other in self.logging_in - {address}:
            return other
        for other, begun in self.since.items():
            if other != address and begun >= since and now - begun <= _SOON:
                return other
        return None


class TwoAddresses(Generic[_PortT]):
    """Finds the addresses that lead to one target, from logins and from the ends of sessions.

    A port is what the sessions have in common: the initiator port and the target's name.
    """

    def __init__(self) -> None:
        self._ports: dict[_PortT, _Port] = {}

    def begins(self, port: _PortT, address: str) -> None:
        """Note that a login by ``address`` begins."""
        self._ports.setdefault(port, _Port()).logging_in.add(address)

    def fails(self, port: _PortT, address: str) -> None:
        """Note that the login has failed: what ended meanwhile may have ended for the same reason."""
        if (known := self._ports.get(port)) is not None:
            known.logging_in.discard(address)
            known.turns = 0

    def succeeds(self, port: _PortT, address: str, now: float) -> None:
        """Note that the login is complete."""
        if (known := self._ports.get(port)) is not None:
            known.logging_in.discard(address)
            known.since[address] = now

    def lost(self, port: _PortT, address: str, now: float) -> tuple[str, str] | None:
        """Note that the session by ``address`` has ended, and not by this side. Returns the two addresses
        when it first shows that they lead to one target.
        """
        known = self._ports.get(port)
        if known is None or (since := known.since.pop(address, None)) is None:
            return None
        rival = known.rival(address, since, now)
        in_turn = known.last != address
        known.last = address
        known.turns = 0 if rival is None else known.turns + 1 if in_turn else 1
        if rival is None or known.turns < _TURNS or known.pair is not None:
            return None
        known.pair = address, rival
        return known.pair

    def leaves(self, port: _PortT, address: str) -> None:
        """Note that nobody uses ``address`` any more."""
        known = self._ports.get(port)
        if known is None:
            return
        known.logging_in.discard(address)
        known.since.pop(address, None)
        known.turns = 0
        if known.pair is not None and address in known.pair:
            known.pair = None
        if not known.since and not known.logging_in and known.pair is None:
            del self._ports[port]

    def found(self) -> Iterator[tuple[_PortT, tuple[str, str]]]:
        """The ports with two addresses that lead to one target."""
        return ((port, known.pair) for port, known in self._ports.items() if known.pair is not None)
