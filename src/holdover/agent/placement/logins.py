"""Initiators that log in to the export of a guest that is not here.

Their commands are refused. So the agent asks the other hosts at once, and says what is true and what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from holdover.agent.guests.guest import HostedGuest
from holdover.agent.placement.claims import ClaimRefused, Claims
from holdover.agent.placement.places import Places
from holdover.guest.gate import Gate
from holdover.iscsi.target.target import SessionChange
from holdover.placement.claim import Word

log = structlog.get_logger()


class Logins:
    """What is known of guests whose QEMU logs in where they are not."""

    def __init__(self, host: str, guests: Mapping[str, HostedGuest], places: Places, claims: Claims) -> None:
        self._host = host
        self._guests = guests
        self._places = places
        self._claims = claims
        self._sentences: dict[str, str] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sentences about guests that are still logged in and still not here."""
        return tuple(text for guest, text in self._sentences.items() if self._is_refused(guest))

    def _is_refused(self, guest: str) -> bool:
        hosted = self._guests.get(guest)
        return (
            hosted is not None
            and hosted.target is not None
            and bool(hosted.target.sessions())
            and self._places.gate(guest) is Gate.DEPARTED
            and not self._places.moves(guest)
        )

    def changed(self, guest: str, change: SessionChange) -> None:
        """Note that an initiator has logged in to a guest's export, or has gone."""
        if change.ended is not None or guest in self._asking or not self._is_refused(guest):
            return
        task = self._asking[guest] = asyncio.ensure_future(self._ask(guest, change.session.initiator))
        task.add_done_callback(lambda _: self._asking.pop(guest, None))

    async def _ask(self, guest: str, initiator: str) -> None:
        try:
            said = await self._claims.ask(guest)
        except ClaimRefused as error:
            where = str(error)
        else:
            hosts = [host for host, each in said.items() if each.word is not Word.FREE]
            where = f"it is on {' and '.join(hosts)}" if hosts else "no host has it"
        text = (
            f"guest {guest}: {initiator} is logged in to its export, and the guest is not on {self._host}, "
            f"so its commands are refused: {where}. If it is to run here: holdover guest start {guest}"
        )
        self._sentences[guest] = text
        log.warning("An initiator is logged in to a guest that does not run here.", guest=guest, reason=text)

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = tuple(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
