"""Plays a handover by a script, in a `World`, and writes down what happens: for people to read and review.

Every event, command and message is a line, and what it has changed stands below it: states and whether they
are on disk yet, gates, registrations on the LUNs. What a world does by itself goes on in a fixed order; the
script says what others do, and when something goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from holdover.handover.protocol import Answer
from holdover.lun.reservations import ReservationState
from tests.handover.model import Model
from tests.handover.world import THIRD_NEXUS, WHO, Bounds, Case, Ended, World, name_of

_BY_ITSELF = (
    "the source restarts",
    "the destination restarts",
    "the partition heals",
    "the source has no answer: unreached",
    "the guest stops, commit",
    "the guest starts on the destination",
    "take",
    "the guest is started on the destination",
    "finish",
    "finish without the source",
    "the guest goes on on the source",
)
"""What happens, in this order, when a script has ended and nothing else goes on."""

_MANY = 400


@dataclass(frozen=True)
class Script:
    """What others do in a handover, one after the other.

    Attributes:
        steps: The action to take next, when nothing goes on by itself any more; or "STATE on SIDE: ACTION",
            to take it as soon as that host is in that state.
        title: What is special about this script among those of its situation.
        from_step: Leave out what happens before this step.
    """

    steps: tuple[str, ...]
    title: str = ""
    from_step: int = 0


@dataclass(frozen=True)
class Situation:
    """A situation to write a transcript of."""

    title: str
    cases: tuple[Case, ...]
    scripts: tuple[Script, ...]
    bounds: Bounds = field(default_factory=lambda: Bounds(9, 9, 9, dies=True, flaps=9))


def play(situation: Situation) -> str:
    """The transcript.

    Raises:
        Violation: A promise is broken.
    """
    parts = [f"{situation.title}\n{'=' * len(situation.title)}"]
    for script in situation.scripts:
        if script.title:
            parts.append(f"{script.title}\n{'-' * len(script.title)}")
        parts.append(_Player(situation, script).text())
    return "\n\n".join(parts) + "\n"


class _Player:
    def __init__(self, situation: Situation, script: Script) -> None:
        self._model = Model(situation.cases, situation.bounds)
        self._world = self._model.start()
        self._script = script
        self._lines: list[str] = []
        self._count = 0

    def text(self) -> str:
        for number, step in enumerate(self._script.steps):
            when, _, what = step.partition(": ")
            if " on " not in when or not what:
                when, what = "", step
            self._until(when)
            if number == self._script.from_step:
                self._lines.clear()
                self._lines += self._now("Before:")
            self._take(what)
        self._to_the_end()
        self._model.check_end(self._world)
        self._lines += self._now("In the end:")
        return "\n".join(self._lines)

    def _until(self, when: str) -> None:
        """Go on until ``when`` is so, or as far as it goes by itself."""
        state, _, side = when.partition(" on ")
        while not when or self._state_of(WHO.index(side)) != state:
            following = next(self._by_itself(), None)
            if following is None:
                if when:
                    raise ValueError(f"{when}: it never is; there is\n" + "\n".join(self._lines))
                return
            self._go(*following)

    def _by_itself(self) -> Iterator[tuple[str, World]]:
        world = self._world
        for what, after in (*self._model.works(world), *self._model.messages(world)):
            if not what.startswith("the source has no answer"):
                yield what, after

    def _state_of(self, who: int) -> str:
        machine = self._model.part(self._world.destination if who else self._world.source)
        return "" if machine is None else machine.state.value

    def _take(self, what: str) -> None:
        known = {label: after for label, after, _ in self._model.successors(self._world)}
        if what not in known:
            offered = "\n".join(known)
            raise ValueError(f"{what}: cannot happen here, only\n{offered}")
        self._go(what, known[what])

    def _to_the_end(self) -> None:
        for _ in range(_MANY):
            following = next(self._by_itself(), None) or self._next_of_others()
            if following is None:
                return
            self._go(*following)
        raise ValueError("it never ends\n" + "\n".join(self._lines))

    def _next_of_others(self) -> tuple[str, World] | None:
        known = {label: after for label, after, _ in self._model.successors(self._world)}
        return next(((what, known[what]) for what in _BY_ITSELF if what in known), None)

    # -- what is written down -----------------------------------------------------------------------

    def _go(self, what: str, after: World) -> None:
        before, self._world = self._world, after
        self._model.check(after)
        self._count += 1
        self._lines.append(f"{self._count:3}. {what}{self._refusal(before, what)}")
        self._lines += [f"       {line}" for line in self._changes(before, after)]

    def _refusal(self, before: World, what: str) -> str:
        """How a LUN has refused the command that ``what`` says; empty where it did not."""
        for who, task in enumerate((before.source_task, before.destination_task)):
            if task[:1] != ("work",):
                continue
            for lun, number in enumerate(task[1:]):
                command = self._model.advance(number)
                if isinstance(command, Ended) or what != f"{WHO[who]}: {name_of(command)} on LUN {lun}":
                    continue
                answer = self._model.execute(before, who, lun, command)[1]
                if answer is not None and not answer.good:
                    return f": {answer.status.name.replace('_', ' ')}"
        return ""

    def _changes(self, before: World, after: World) -> Iterator[str]:
        for who, side in enumerate(WHO):
            yield from self._of_host(before, after, who, side)
        for number in sorted(set(after.net) - set(before.net)):
            item = self._model.part(number)
            sender = "destination answers" if isinstance(item, Answer) else "source sends"
            yield f"{sender} {item.kind.value.upper()} {item.number}"
        for lun, (was, now) in enumerate(zip(before.luns, after.luns, strict=True)):
            if was != now:
                yield self._lun(lun)

    def _of_host(self, before: World, after: World, who: int, side: str) -> Iterator[str]:
        names = ("destination", "destination_journal") if who else ("source", "source_journal")
        was, now = (self._state(getattr(world, names[0])) for world in (before, after))
        recorded, record = (getattr(world, names[1]) for world in (before, after))
        current = getattr(after, names[0])
        if was != now:
            yield f"{side}: {was} -> {now}{'' if record == current else ', not on disk yet'}"
        elif recorded != record:
            yield f"{side}: {now} is on disk"
        if before.gates[who] is not after.gates[who]:
            yield f"{side}: the gate is {after.gates[who].value}"
        pictures = (before.there, after.there) if who else (before.device, after.device)
        for lun, (picture, learned) in enumerate(zip(*pictures, strict=True)):
            if picture != learned:
                yield f"{side}: the device on LUN {lun} tracks {self._picture(learned)}"

    def _state(self, number: int) -> str:
        machine = self._model.part(number)
        return "nothing" if machine is None else str(machine.state.value)

    def _picture(self, number: int) -> str:
        tracked = self._model.part(number)
        if not tracked.key:
            return "no registration"
        held = "no reservation" if tracked.type is None else tracked.type.short_name
        return f"key {tracked.key:#x}, {held}{', APTPL' if tracked.aptpl else ''}"

    def _lun(self, lun: int) -> str:
        state: ReservationState = self._model.part(self._world.luns[lun])
        owners = {THIRD_NEXUS: "third"}
        for who, side in enumerate(WHO):
            nexuses = self._model.nexuses(lun, who)
            for number, nexus in enumerate(nexuses):
                owners[nexus] = side if len(nexuses) == 1 else f"{side} path {number}"
        registered = sorted(
            f"{owners[each.nexus]} {each.key:#x}{' (holds it)' if state.holds(each.nexus) else ''}"
            for each in state.registrations
        )
        held = "not reserved" if state.reservation is None else state.reservation.type.short_name
        aptpl = ", APTPL" if state.aptpl else ""
        return f"LUN {lun}: {held}{aptpl}; {', '.join(registered) or 'nobody is registered'}"

    def _now(self, title: str) -> list[str]:
        world = self._world
        states = [self._state(world.source), self._state(world.destination)]
        gates = [gate.value for gate in world.gates]
        return [
            title,
            *(
                f"  {side}: {state}, its gate is {gate}"
                for side, state, gate in zip(WHO, states, gates, strict=True)
            ),
            *(f"  {self._lun(lun)}" for lun in range(len(world.luns))),
        ]
