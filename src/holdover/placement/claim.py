"""A claim: one host wants to let a guest run that no host has. At most one host's claim succeeds.

Theory of operation. Two things could go wrong if a host only asked the others who has the guest. Two hosts
could ask at the same moment, hear of nobody, and both start the guest. And the guest could move from a host
that is asked late to one that was asked early, so that neither of them says that it has the guest.

- A host notes its claim before it asks. A host that is asked while it claims the guest itself answers so. If
  two claim, the one whose name comes first goes on: the other gives its own claim up as soon as it is asked.
  Of any two hosts that claim at the same time, at least one asks the other while that one claims.
- A host asks all others twice. Each answer has a mark, which differs when the host has taken part in a
  handover of the guest since; the host that claims has such a mark too. If the second round gives the same
  marks as the first one, then there was an instant between both rounds at which no host had the guest. From
  then on only a claim can change that.

Both need an answer from every host on which the guest may run. An operator answers for a dead host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Word(Enum):
    """What a host says of a guest to a host that asks."""

    HAS = "has"
    """The guest is on this host, or is just being let run here."""
    MOVES = "moves"
    """A handover or a migration of the guest, in which this host takes part, is under way."""
    CLAIMS = "claims"
    """This host claims the guest itself, and its name comes first."""
    FREE = "free"
    """This host does not have the guest, and has no part in anything that moves it."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one host has said; ``mark`` differs if the host has taken part in a handover in between."""

    word: Word
    mark: str = ""


class ClaimDecision(Enum):
    """What follows for a claim from the answers of all hosts."""

    AGAIN = "ask all hosts once more"
    WON = "the guest may run here"
    LOST = "another host has the guest, moves it, or claims it"


class Claim:
    """The claim of one host to one guest.

    Attributes:
        host: The host that claims.
        lost_to: The host to which the claim was lost; empty if it was not.
        word: What that host has said.
        won: Whether the guest may run on this host. From then on this host says that it has the guest.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.lost_to = ""
        self.word = Word.FREE
        self.won = False
        self._before: Mapping[str, Said] | None = None

    def receive(self, claimant: str) -> Word:
        """The answer to another host that claims the guest too."""
        if self.won:
            return Word.HAS
        if self.lost_to:
            return Word.FREE
        if claimant < self.host:
            self.lost_to, self.word = claimant, Word.CLAIMS
            return Word.FREE
        return Word.CLAIMS

    def collect(self, said: Mapping[str, Said]) -> ClaimDecision:
        """What follows from one round: the answers of all other hosts, and what this host says of itself,
        apart from its claim.
        """
        other = next((host for host, each in said.items() if each.word is not Word.FREE), "")
        if other and not self.lost_to:
            self.lost_to, self.word = other, said[other].word
        if self.lost_to:
            return ClaimDecision.LOST
        if self._before != said:
            self._before = dict(said)
            return ClaimDecision.AGAIN
        self.won = True
        return ClaimDecision.WON
