"""Two hosts in all interleavings: their libvirtds, agents and QEMUs die and come back at any step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from holdover.libvirt.policy import (
    NO_HANDOVER,
    Known,
    Other,
    Question,
    Seen,
    Task,
    Whereabouts,
    decide,
    observe,
)

_OPEN = frozenset({Whereabouts.HERE, Whereabouts.LEAVING, Whereabouts.COME})
"""The places in which the guest's commands pass on that host."""


@dataclass(frozen=True)
class Side:
    """One host: its records, and the guest's QEMU there."""

    place: Whereabouts
    alive: bool = False
    incoming: bool = False
    runs: bool = False
    granted: bool = False
    revoked: bool = False
    asked: Known | None = None
    """What is known to the question that is being answered; None while there is none."""
    agent: bool = True
    """Whether the agent is there."""
    libvirtd: bool = True
    """Whether libvirtd is there. If it is not, nobody hears the answer."""


@dataclass(frozen=True)
class Site:
    """Both hosts; the guest begins on the first.

    Attributes:
        stopped: Whether the source has heard that the guest stopped.
        sending: Whether the source's QEMU sends the guest; if that fails, it resumes the guest by itself.
        sent: Whether it has sent all of it.
    """

    a: Side = Side(Whereabouts.HERE, alive=True, runs=True)
    b: Side = Side(Whereabouts.AWAY)
    stopped: bool = False
    sending: bool = False
    sent: bool = False
    cut: bool = False


class Model:
    """What may happen on two hosts. Each task is one step; it fails if the other host cannot be asked."""

    def __init__(self, *, gated: bool, events: bool = True, without: str = "") -> None:
        self.gated = gated
        """Whether the guest's I/O waits while the gate is shut."""
        self.events = events
        """Whether the agents subscribe to libvirt's events of QEMU."""
        self.without = without
        """A rule that the model breaks, so that a test sees the harm."""

    def after(self, site: Site) -> Iterator[tuple[str, Site]]:
        """All that may happen next."""
        yield "cut or mend", replace(site, cut=not site.cut)
        yield from self._libvirt(site)
        yield from self._sending(site)
        for name in ("a", "b"):
            yield from self._deaths(site, name, getattr(site, name))
        for name in ("a", "b"):
            side: Side = getattr(site, name)
            if side.asked is not None:
                for what, later in self._answer(site, name, side, side.asked):
                    yield f"{name}: {what}", later
            if side.alive and not (name == "a" and side.runs):
                yield f"{name}: its QEMU ends", self._end(site, name)

    def _deaths(self, site: Site, name: str, side: Side) -> Iterator[tuple[str, Site]]:
        """A process of a host dies or comes back. What is on record stays."""
        if side.agent:
            later = self._with(site, name, replace(side, agent=False, asked=None))
            # that the guest has stopped is not on record
            yield f"{name}: its agent dies", replace(later, stopped=site.stopped and name != "a")
        else:
            yield f"{name}: its agent comes back", self._back(site, name, side)
        if side.libvirtd:
            yield f"{name}: its libvirtd dies", self._with(site, name, replace(side, libvirtd=False))
        elif side.asked is None:
            back = self._with(site, name, replace(side, libvirtd=True))
            paused = side.alive and side.incoming and not side.runs
            # it ends a QEMU that waits for a migration of which it knows no more
            yield f"{name}: its libvirtd comes back", self._end(back, name) if paused else back

    def _back(self, site: Site, name: str, side: Side) -> Site:
        """The agent looks whether QEMUs have ended meanwhile."""
        back = self._with(site, name, replace(side, agent=True))
        return back if side.alive else self._end(back, name)

    def _libvirt(self, site: Site) -> Iterator[tuple[str, Site]]:
        a, b = site.a, site.b
        if (
            a.alive
            and a.asked is None
            and not b.alive
            and b.place is Whereabouts.AWAY
            and a.place is Whereabouts.HERE
            and not site.cut
            and a.agent
            and b.agent
            and a.libvirtd
            and b.libvirtd
        ):
            yield (
                "migrate",
                replace(
                    site,
                    a=replace(a, place=Whereabouts.LEAVING),
                    b=replace(b, place=Whereabouts.COMING, alive=True, incoming=True),
                    stopped=False,
                    sending=True,
                    sent=False,
                ),
            )
        if not b.alive and b.asked is None and b.agent and b.libvirtd:
            fresh = replace(b, alive=True, incoming=False, asked=Known(place=b.place, incoming=False))
            yield "start b afresh", replace(site, b=fresh)
        if a.runs:
            heard = a.place is Whereabouts.LEAVING and a.agent and a.libvirtd
            yield "a stops", replace(site, a=replace(a, runs=False), stopped=site.stopped or heard)
        b_asks = b.alive and b.incoming and not b.runs and b.asked is None and b.agent and b.libvirtd
        # libvirt on the destination asks after the one on the source has seen the end of the sending
        if b_asks and not a.runs and site.sent:
            yield "b asks", replace(site, b=replace(b, asked=Known(place=b.place, incoming=True)))
        if a.alive and not a.runs and a.asked is None and a.agent and a.libvirtd:
            yield "a asks", replace(site, a=replace(a, asked=Known(place=a.place)))

    def _sending(self, site: Site) -> Iterator[tuple[str, Site]]:
        """What the source's QEMU does between the stop and the end of the sending, and who hears of it."""
        a, b = site.a, site.b
        leaves = a.alive and a.place in (Whereabouts.LEAVING, Whereabouts.LEFT)
        if site.sending and a.alive and not a.runs:
            yield "a goes on by itself", replace(site, a=replace(a, runs=True), sending=False)
            if b.alive and b.incoming and not b.runs:
                yield "a has sent all", replace(site, sending=False, sent=True)
        if not (self.events and leaves and a.agent and a.libvirtd and a.asked is None):
            return
        # an event of an earlier moment may be heard late
        yield from self._hear(site, Seen.PRE_SWITCHOVER)
        if site.sent:
            yield from self._hear(site, Seen.SENT)
        if a.runs:
            yield from self._hear(site, Seen.RUNS)

    def _hear(self, site: Site, seen: Seen) -> Iterator[tuple[str, Site]]:
        gated = self.gated or self.without == "gate"
        known = Known(place=site.a.place, stopped=site.stopped, gated=gated)
        found = observe(seen, known)
        now, name = site, seen.name
        if found.task is Task.ASK_DESTINATION and not self._alone(site, "a"):
            asked = replace(site, a=replace(site.a, asked=known))
            _, now, said = next(self._work(asked, "a", found.task))
            now = replace(now, a=replace(now.a, asked=None))
            found = observe(seen, replace(known, other=said or known.other))
        if found.task is Task.ROLL_BACK:
            yield f"a hears {name}: ROLL_BACK", self._rolled_back(now)
        comes = not self._alone(site, "a") and site.b.place is Whereabouts.COMING
        if found.task is Task.COMMIT_HERE and comes:
            yield f"a hears {name}: COMMIT_HERE", self._committed(site)

    def _committed(self, site: Site) -> Site:
        a, b = replace(site.a, place=Whereabouts.LEFT), replace(site.b, place=Whereabouts.COME)
        return replace(site, a=a, b=b)

    def _answer(self, site: Site, name: str, side: Side, known: Known) -> Iterator[tuple[str, Site]]:
        now = replace(known, place=side.place, alive=side.alive, granted=side.granted)
        found = decide(Question.MAY_RUN, now)
        if found.yes:
            later = self._with(site, name, replace(side, asked=None, runs=side.alive and side.libvirtd))
            # the source goes on: a commit that comes later finds it so
            again = name == "a" and side.place is Whereabouts.LEAVING and self.without != "goes on"
            yield "yes", replace(later, stopped=site.stopped and not again)
        elif found.refusal is not None:
            yield "no", self._with(site, name, replace(side, asked=None))
        elif found.task is not None:
            for what, later, said in self._work(site, name, found.task):
                mine: Side = getattr(later, name)
                next_known = replace(now, failed=said is None, other=said or now.other)
                yield what, self._with(later, name, replace(mine, asked=next_known))

    def _work(self, site: Site, name: str, task: Task) -> Iterator[tuple[str, Site, Other | None]]:
        """The outcomes of a task: what others have said, the same as before, or None where it failed."""
        a, b = site.a, site.b
        keep = getattr(site, name).asked.other
        failed = (f"{task.name} fails", site, None)
        if self._alone(site, name) and task not in (Task.GRANT, Task.OPEN):
            if task in (Task.ASK_ALL, Task.ASK_DESTINATION, Task.ASK_SOURCE):
                yield f"{task.name} unreachable", site, Other.UNREACHABLE
            else:
                yield failed
            return
        if task is Task.ASK_ALL:
            has = a.place in NO_HANDOVER or a.place is Whereabouts.LEFT
            said = Other.NOBODY if not has else Other.RUNS if a.alive else Other.ENDED
            yield "ASK_ALL", site, said
        elif task is Task.ASK_SOURCE:
            lives = a.alive and self.without != "source's QEMU"
            yield "ASK_SOURCE", site, Other.RUNS if lives else Other.ENDED
        elif task is Task.ASK_DESTINATION:
            if b.granted and b.alive:
                yield "ASK_DESTINATION granted", site, Other.GRANTED
            else:
                revoked = replace(b, revoked=self.without != "revoke", granted=False)
                yield "ASK_DESTINATION not granted", replace(site, b=revoked), Other.NOT_GRANTED
        elif task is Task.PREPARE and a.place is Whereabouts.HERE and b.place is Whereabouts.AWAY:
            later = replace(
                site,
                a=replace(a, place=Whereabouts.LEAVING),
                b=replace(b, place=Whereabouts.COMING),
                stopped=False,
            )
            yield "PREPARE", later, keep
        elif task is Task.COMMIT and a.place is Whereabouts.LEAVING and b.place is Whereabouts.COMING:
            may = site.stopped or not a.alive or self.without == "stop"
            if may:
                yield "COMMIT", self._committed(site), keep
            else:
                yield failed
        elif task is Task.GRANT and b.place is Whereabouts.COME and not b.revoked:
            yield "GRANT", replace(site, b=replace(b, granted=True)), keep
        elif task is Task.ROLL_BACK and a.place is Whereabouts.LEFT:
            yield "ROLL_BACK", self._rolled_back(site), keep
        elif task is Task.OPEN:
            yield "OPEN", self._with(site, name, replace(getattr(site, name), place=Whereabouts.HERE)), keep
        else:
            yield failed

    def _rolled_back(self, site: Site) -> Site:
        b = replace(site.b, place=Whereabouts.AWAY, granted=False, revoked=False)
        return replace(site, a=replace(site.a, place=Whereabouts.HERE), b=b)

    def _end(self, site: Site, name: str) -> Site:
        side: Side = getattr(site, name)
        task = decide(Question.ENDED, Known(place=side.place, granted=side.granted)).task
        later = self._with(site, name, replace(side, alive=False, runs=False, asked=None))
        if not getattr(site, name).agent or self._alone(site, name):
            return later
        if task is Task.ASK_ROLL_BACK:
            return self._rolled_back(later)
        if task is Task.FINISH:
            gone = replace(later.a, place=Whereabouts.AWAY)
            here = replace(later.b, place=Whereabouts.HERE, granted=False, revoked=False)
            return replace(later, a=gone, b=here)
        return later

    def _alone(self, site: Site, name: str) -> bool:
        """Whether the agent of a host cannot ask the other one."""
        other: Side = site.b if name == "a" else site.a
        return site.cut or not other.agent

    def _with(self, site: Site, name: str, side: Side) -> Site:
        return replace(site, a=side) if name == "a" else replace(site, b=side)


@dataclass(frozen=True)
class Explored:
    """All sites that there are.

    Attributes:
        sites: How many.
        story: How there comes to be harm; empty if never.
        stuck: The sites from which the guest never runs again where its commands pass, whatever happens.
    """

    sites: int
    story: list[str]
    stuck: list[Site]


def harm(site: Site, model: Model) -> bool:
    """Whether the guest runs, or its commands pass, on both hosts, or it writes without its reservation."""
    a, b = site.a, site.b
    both = (a.runs and b.runs) or (a.place in _OPEN and b.place in _OPEN)
    return both or (not model.gated and a.runs and a.place not in _OPEN)


def explore(model: Model) -> Explored:
    """Everything that can happen."""
    first = Site()
    paths: dict[Site, tuple[Site | None, str]] = {first: (None, "")}
    before: dict[Site, list[Site]] = {first: []}
    waiting = [first]
    for site in waiting:
        for what, later in model.after(site):
            before.setdefault(later, []).append(site)
            if later in paths:
                continue
            paths[later] = (site, what)
            if harm(later, model):
                return Explored(len(paths), _story(paths, later), [])
            waiting.append(later)
    good = [site for site in waiting if any(each.runs and each.place in _OPEN for each in (site.a, site.b))]
    reached = set(good)
    for site in good:
        for each in before[site]:
            if each not in reached:
                reached.add(each)
                good.append(each)
    return Explored(len(paths), [], [site for site in waiting if site not in reached])


def _story(paths: dict[Site, tuple[Site | None, str]], site: Site) -> list[str]:
    story: list[str] = []
    at: Site | None = site
    while at is not None:
        at, what = paths[at]
        story.insert(0, what)
    return story


@pytest.mark.parametrize("events", [True, False])
@pytest.mark.parametrize("gated", [True, False])
def test_the_guest_never_runs_on_two_hosts_and_is_never_lost(gated: bool, events: bool) -> None:
    found = explore(Model(gated=gated, events=events))
    assert found.story == []
    assert found.stuck == []
    assert found.sites > 1000


@pytest.mark.parametrize("rule", ["revoke", "stop", "goes on", "source's QEMU"])
def test_without_a_rule_the_guest_would_run_on_two_hosts(rule: str) -> None:
    assert explore(Model(gated=True, without=rule)).story, f"the model does not need the rule {rule!r}"


def test_a_guest_whose_io_does_not_wait_would_write_without_its_reservation_after_pre_switchover() -> None:
    assert "a goes on by itself" in explore(Model(gated=False, without="gate")).story
