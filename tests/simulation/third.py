"""A third node: it shares LUNs with the guests, and no agent knows of it."""

from __future__ import annotations

from random import Random

from holdover.reservations.tracked import Tracked
from holdover.scsi.cdbs.opcodes import OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import is_unit_attention
from tests.simulation.promises import Ledger
from tests.simulation.san import Lun, Sender
from tests.simulation.transcript import Transcript

_NEXUS = ITNexus(IscsiTransportID("iqn.2026-11.org.example:third", b"\x80\0\0\0\0\1"))
_SENDER = Sender("third")


class Third:
    """The node; each time that it acts it sends one command to one LUN."""

    def __init__(
        self,
        luns: list[Lun],
        ledgers: dict[str, Ledger],
        random: Random,
        log: Transcript,
        *,
        has_own_key: bool,
        clears: bool = False,
    ) -> None:
        """``has_own_key``: it never has a key of the guests. ``clears``: it often fences by CLEAR.

        multipathd of a host may register a path of a guest that was fenced with such a key
        (docs/develop/design.md).
        """
        self._luns = luns
        self._ledgers = ledgers
        self._random = random
        key = random.choice((0xC, 0xC, 0xD1))
        self._key = 0xC if has_own_key else key
        self._clears = clears
        log.names[_NEXUS] = "third"

    async def act(self) -> None:
        """Do something to a LUN."""
        lun = self._random.choice(self._luns)
        self._tell(lun, self._command(lun))

    async def fence(self, lun: Lun) -> None:
        """Register if need be, and do something to a LUN at once, as a cluster's fence agent does."""
        random = self._random
        if not lun.state.key_of(_NEXUS):
            self._tell(lun, self._command(lun))
        key, keys = lun.state.key_of(_NEXUS), sorted({each.key for each in self._truths(lun)} - {0})
        kind = (
            ReservationType.WRITE_EXCLUSIVE if lun.state.reservation is None else lun.state.reservation.type
        )
        fence = out_command(OutServiceAction.PREEMPT, key, random.choice(keys or [1]), type=kind)
        draw = random.random()
        if draw < (0.3 if self._clears else 0.5):
            self._tell(lun, fence)
        elif draw < (0.8 if self._clears else 0.6):
            self._tell(lun, out_command(OutServiceAction.CLEAR, key))
        else:
            self._tell(lun, self._command(lun))

    def _tell(self, lun: Lun, command: Command) -> Response:
        response = lun.carry_out(_SENDER, _NEXUS, command)
        while is_unit_attention(response):
            response = lun.carry_out(_SENDER, _NEXUS, command)
        return response

    def _command(self, lun: Lun) -> Command:
        random, state = self._random, lun.state
        key = state.key_of(_NEXUS)
        if key == 0:
            aptpl = random.random() < 0.8
            return out_command(OutServiceAction.REGISTER, 0, self._key, aptpl=aptpl)
        held = state.reservation
        draw = random.random()
        keys = sorted({ledger.key for ledger in self._truths(lun)} - {0, key})
        if draw < 0.3 and keys:
            kind = ReservationType.WRITE_EXCLUSIVE if held is None else held.type
            return out_command(OutServiceAction.PREEMPT, key, random.choice(keys), type=kind)
        if draw < 0.5 and held is None:
            return out_command(OutServiceAction.RESERVE, key, type=random.choice(tuple(ReservationType)))
        if draw < 0.7 and held is not None:
            return out_command(OutServiceAction.RELEASE, key, type=held.type)
        if draw < 0.75:
            return out_command(OutServiceAction.CLEAR, key)
        return out_command(OutServiceAction.REGISTER, key, 0)

    def _truths(self, lun: Lun) -> list[Tracked]:
        ledger = self._ledgers[lun.name]
        return [ledger.truth(guest) for guest in ledger.guests]
