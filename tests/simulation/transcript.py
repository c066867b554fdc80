"""What happened in a run, as text that a person can read."""

from __future__ import annotations

from collections.abc import Callable

from holdover.lun.reservations import ReservationState
from holdover.scsi.cdbs.cdb import PersistentReserveIn, PersistentReserveOut
from holdover.scsi.cdbs.opcodes import InServiceAction, OperationCode, OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import ParameterList


class Transcript:
    """The lines of one run.

    Attributes:
        on: Whether lines are kept. Whether they are never changes what happens.
        lines: The lines.
    """

    def __init__(self, on: bool, now: Callable[[], float]) -> None:
        self.on = on
        self.lines: list[str] = []
        self.names: dict[ITNexus, str] = {}
        self._now = now

    def line(self, who: str, what: str) -> None:
        """Add a line."""
        if self.on:
            self.lines.append(f"{self._now():11.6f}  {who:8}  {what}")

    def registrations(self, state: ReservationState) -> str:
        """The registrations and the reservation of a LUN."""
        found = [f"{self._name(each.nexus)} {each.key:#x}" for each in state.registrations]
        held = state.reservation
        text = f"registered: {', '.join(found) or 'nobody'}"
        if held is not None:
            holder = "all registrants" if held.holder is None else self._name(held.holder)
            text += f"; {held.type.name} of {holder}"
        return f"{text}; APTPL {'on' if state.aptpl else 'off'}"

    def _name(self, nexus: ITNexus) -> str:
        return self.names.get(nexus, str(nexus))


def describe(guest: str, command: Command) -> str:
    """A command, with its keys; ``guest`` is the guest by whose nexus it comes, if by a guest's."""
    text = _described(command)
    return f"{text} (nexus of {guest})" if guest else text


def _described(command: Command) -> str:
    try:
        if command.opcode == OperationCode.PERSISTENT_RESERVE_OUT:
            cdb = PersistentReserveOut.decode(command.cdb)
            data = ParameterList.decode(command.data_out)
            name = OutServiceAction(cdb.service_action).name.replace("_", " ")
            aptpl = " APTPL" if data.aptpl else ""
            return f"{name} key {data.key:#x} service action key {data.service_action_key:#x}{aptpl}"
        if command.opcode == OperationCode.PERSISTENT_RESERVE_IN:
            action = PersistentReserveIn.decode(command.cdb).service_action
            return InServiceAction(action).name.replace("_", " ")
        return OperationCode(command.opcode).name.replace("_", " ")
    except (DecodeError, ValueError):
        return f"command {command.opcode:#04x}"
