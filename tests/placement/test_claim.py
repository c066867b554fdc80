"""Claims to a guest: whatever the order of messages and crashes, no two hosts let the guest run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.placement.claim import Claim, ClaimDecision, Said, Word

HOSTS = ("a", "b", "c")


@dataclass
class HostModel:
    """One host: whether it has the guest, its handovers so far, and its claim."""

    name: str
    has: bool = False
    moves: bool = False
    handovers: int = 0
    claim: Claim | None = None

    def says(self) -> Said:
        word = Word.HAS if self.has else Word.MOVES if self.moves else Word.FREE
        return Said(word, str(self.handovers))

    def answer(self, claimant: str) -> Said:
        said = self.says()
        if said.word is not Word.FREE or self.claim is None:
            return said
        return Said(self.claim.receive(claimant), said.mark)


class Impatient(Claim):
    """A claim that is content with one round: the mutation that the property must find."""

    def collect(self, said: dict[str, Said]) -> ClaimDecision:  # type: ignore[override]
        super().collect(said)
        return super().collect(said)


class Stubborn(Claim):
    """A claim that never gives way: the other mutation."""

    def receive(self, claimant: str) -> Word:
        return Word.HAS if self.won else Word.FREE


@dataclass
class World:
    """Three hosts and one guest, with at most one handover at a time."""

    kind: type[Claim] = Claim
    hosts: dict[str, HostModel] = field(default_factory=lambda: {name: HostModel(name) for name in HOSTS})
    under_way: dict[str, Iterator[None]] = field(default_factory=dict)

    def claims(self, name: str) -> Iterator[None]:
        """A host claims the guest; each question, and each answer, takes a step of its own."""
        me = self.hosts[name]
        if me.has or me.moves:
            return
        me.claim = claim = self.kind(name)
        while True:
            said = {}
            for other in HOSTS:
                if other != name:
                    yield
                    said[other] = self.hosts[other].answer(name)
                    yield
            if me.claim is not claim:
                return  # this host has crashed in between
            match claim.collect({**said, name: me.says()}):
                case ClaimDecision.WON:
                    yield  # the record is written
                    if me.claim is claim:
                        me.has = True
                        me.claim = None
                    return
                case ClaimDecision.LOST:
                    me.claim = None
                    return

    def hands_over(self, name: str, to: str) -> Iterator[None]:
        """A host that has the guest hands it over, or takes it back."""
        source, destination = self.hosts[name], self.hosts[to]
        if not source.has or name == to or any(host.moves for host in self.hosts.values()):
            return
        destination.moves, destination.handovers = True, destination.handovers + 1
        yield
        source.has, source.moves, source.handovers = False, True, source.handovers + 1
        yield
        destination.has = True
        yield
        destination.moves = False
        yield
        source.moves = False

    def crashes(self, name: str) -> None:
        """A host's agent is restarted: it forgets its claim, and keeps what is on record."""
        self.hosts[name].claim = None

    def having(self) -> list[str]:
        return [name for name, host in self.hosts.items() if host.has]


def run(seed: int, kind: type[Claim], steps: int) -> bool:
    """Whether at most one host had the guest all the time."""
    rng = random.Random(seed)
    world = World(kind)
    if rng.random() < 0.5:
        world.hosts[rng.choice(HOSTS)].has = True
    running: list[Iterator[None]] = []
    for _ in range(steps):
        action = rng.random()
        name = rng.choice(HOSTS)
        if action < 0.1 and world.hosts[name].claim is None:
            running.append(world.claims(name))
        elif action < 0.15 and world.having() and not any(host.moves for host in world.hosts.values()):
            running.append(world.hands_over(world.having()[0], rng.choice(HOSTS)))
        elif action < 0.16:
            world.crashes(name)
        elif action < 0.17 and not any(host.moves for host in world.hosts.values()):
            world.hosts[name].has = False  # its record is lost: nobody has the guest
        elif running:
            chosen = rng.choice(running)
            if next(chosen, world) is world:
                running.remove(chosen)
        if len(world.having()) > 1:
            return False
    return True


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**64))
def test_no_two_hosts_have_the_guest(seed: int) -> None:
    assert run(seed, Claim, 400)


@pytest.mark.parametrize("kind", [Impatient, Stubborn])
def test_both_rules_are_needed(kind: type[Claim]) -> None:
    assert not all(run(seed, kind, 400) for seed in range(400))


def test_of_two_that_claim_at_once_the_first_by_name_wins() -> None:
    first, second = Claim("a"), Claim("b")
    assert second.receive("a") is Word.FREE
    assert first.receive("b") is Word.CLAIMS
    assert second.collect({"a": Said(Word.CLAIMS)}) is ClaimDecision.LOST
    assert (second.lost_to, second.word) == ("a", Word.CLAIMS)
    assert first.collect({"b": Said(Word.FREE)}) is ClaimDecision.AGAIN
    assert first.collect({"b": Said(Word.FREE)}) is ClaimDecision.WON
    assert first.receive("b") is Word.HAS


def test_marks_that_change_are_asked_for_again() -> None:
    claim = Claim("a")
    assert claim.collect({"b": Said(Word.FREE, "h1")}) is ClaimDecision.AGAIN
    assert claim.collect({"b": Said(Word.FREE, "h2")}) is ClaimDecision.AGAIN
    assert claim.collect({"b": Said(Word.FREE, "h2")}) is ClaimDecision.WON


def test_whoever_has_the_guest_keeps_it() -> None:
    claim = Claim("a")
    assert claim.collect({"b": Said(Word.FREE), "c": Said(Word.HAS)}) is ClaimDecision.LOST
    assert (claim.lost_to, claim.word) == ("c", Word.HAS)
    assert claim.receive("b") is Word.FREE
