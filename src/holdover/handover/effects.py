"""The effects of one event of a handover, as one value. The executor carries it out and decides nothing.

After a crash, a host continues from what is on record. So the value also says which of its parts must wait
until the records are on disk (`Effects.durable_first`). All other parts may happen earlier. If nothing waits
for a record, it is written later, together with the next ones, and a crash loses it. The rules make sure that
this loss looks like a crash before the event.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum

import msgspec
from msgspec.structs import replace

from holdover.guest.gate import Gate
from holdover.handover.lun_handover import UNREGISTERED, LunHandover
from holdover.handover.lun_work.work import POLICY, Work, WorkPolicy, without_commands
from holdover.handover.protocol import Answer, Destination, Message, Source
from holdover.reservations.tracked import Tracked


class EffectKind(Enum):
    """A part of the effects that others can see. The parts are carried out in this order; but an answer that
    waits for no record comes first.
    """

    GATE = "gate"
    """The gates of the guest's devices move: its commands pass, wait or are refused."""
    WORK = "work"
    """The commands of the work reach the LUNs."""
    MESSAGE = "message"
    """The destination hears the message."""
    ANSWER = "answer"
    """The source or an operator, who waits, learns the state of the handover."""


class WorkOrder(msgspec.Struct, frozen=True, gc=False):
    """Work to do on all LUNs at once. It ends with `Event.DONE` or `Event.FAILED`.

    Attributes:
        work: The kind of work.
        luns: The LUNs, as the handover knows them.
        known: For each LUN: the LUN after the work, if the work needs no command there; else None.
    """

    work: Work
    luns: tuple[LunHandover, ...]
    known: tuple[LunHandover | None, ...]

    @property
    def policy(self) -> WorkPolicy:
        """How the work is done."""
        return POLICY[self.work]

    @property
    def result(self) -> tuple[LunHandover, ...] | None:
        """All LUNs after the work, if no LUN needs a command; else None."""
        found = tuple(lun for lun in self.known if lun is not None)
        return found if len(found) == len(self.luns) else None


def order(work: Work, luns: tuple[LunHandover, ...]) -> WorkOrder:
    """A `WorkOrder` for ``work`` on ``luns``."""
    return WorkOrder(work, luns, tuple(without_commands(work, lun) for lun in luns))


class DeviceNews(msgspec.Struct, frozen=True, gc=False):
    """What the handover tells the guest's device on one LUN. It goes on record with the state.

    Attributes:
        designator: The LUN's designator.
        tracked: What the guest has established, to be tracked from now on; None: keep what the device tracks.
        left: Whether the guest has left this host. Then nothing here belongs to the guest any more, and it
            gets no unit attention from here.
        drop: Unit attentions to drop, because the handover has caused them or the guest has got them.
        pass_on: Unit attentions that the guest must still get.
    """

    designator: str
    tracked: Tracked | None = None
    left: bool = False
    drop: tuple[int, ...] = ()
    pass_on: tuple[int, ...] = ()


class Effects(msgspec.Struct, frozen=True, gc=False):
    """What the executor does after one event.

    Attributes:
        record: Whether to put the new state on record, together with the devices in ``devices``.
        devices: What to tell the guest's devices on this host.
        gate: The new gate of all devices of the guest; None: no change.
        work: The work that begins now, in place of the activity that was under way.
        message: The message to send to the destination now, in place of the activity that was under way.
        again: Whether to pause before the work or the message, because the same has just failed.
        answer: The answer to the message that was handled.
        tells_now: Whether to tell those who wait for the handover to come to rest, at once, why it does not.
        durable_first: The parts that must wait until all records so far are on disk.
    """

    record: bool = False
    devices: tuple[DeviceNews, ...] = ()
    gate: Gate | None = None
    work: WorkOrder | None = None
    message: Message | None = None
    again: bool = False
    answer: Answer | None = None
    tells_now: bool = False
    durable_first: frozenset[EffectKind] = frozenset()

    @property
    def begins(self) -> bool:
        """Whether an activity begins: work or a message."""
        return self.work is not None or self.message is not None


def entered(
    before: Source | Destination | None,
    gate: Gate,
    *,
    devices: tuple[DeviceNews, ...] = (),
    work: WorkOrder | None = None,
    message: Message | None = None,
    answer: Answer | None = None,
    again: bool = False,
) -> Effects:
    """The effects of entering a state, with the parts of them that must wait for the records.

    - A gate waits if it will let more commands pass, or refuse them. A gate that only holds commands does not
      wait.
    - Work that changes nothing does not wait. Nor does work that sends no command to any LUN, because nobody
      can see it. All other work waits.
    - A message and an answer always wait. Those who wait for the handover to come to rest get their answer
      when the handover has no activity, or pauses before it tries again.
    """
    first = set()
    if gate is not (before.gate if before is not None else None) and _is_seen(before, gate):
        first.add(EffectKind.GATE)
    if work is not None and work.policy.changes and work.result is None:
        first.add(EffectKind.WORK)
    if message is not None:
        first.add(EffectKind.MESSAGE)
    if answer is not None or again or (work is None and message is None):
        first.add(EffectKind.ANSWER)
    return Effects(True, devices, gate, work, message, again, answer, durable_first=frozenset(first))


def without_record(effects: Effects, part: EffectKind) -> Effects:
    """The same effects; but ``part`` does not wait for the records, because both hosts have on record that
    this may happen (`holdover.handover.state_table`).
    """
    return replace(effects, durable_first=effects.durable_first - {part})


def _is_seen(before: Source | Destination | None, gate: Gate) -> bool:
    holds = gate in (Gate.LEAVING, Gate.INCOMING)
    return not holds or before is None or before.gate is not Gate.RUNNING


def adopted(luns: Iterable[LunHandover]) -> tuple[DeviceNews, ...]:
    """What to tell the devices so that they track what the handover knows of these LUNs."""
    return tuple(DeviceNews(lun.designator, lun.tracked if lun.migrate_pr else None) for lun in luns)


def departed(luns: Iterable[LunHandover]) -> tuple[DeviceNews, ...]:
    """What to tell the devices when the guest has nothing on this host any more."""
    return tuple(replace(news, left=True, tracked=news.tracked and UNREGISTERED) for news in adopted(luns))
