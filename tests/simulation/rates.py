"""How often what goes wrong: drawn once for each seed, so that each seed has a character of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from random import Random


@dataclass(frozen=True, slots=True)
class Rates:
    """The probability of each fault, at each occasion for it; the ones at the end are per second.

    Attributes:
        slow: A command takes up to seconds.
        answer_lost: A command is carried out, its session breaks, and the answer is lost.
        command_lost: A command's session breaks before the command is carried out.
        unsent: A command cannot be sent.
        busy: A LUN answers BUSY or ABORTED COMMAND.
        message_lost: A request or its answer is lost.
        message_slow: A request or its answer takes up to seconds.
        doubled: A request is carried out twice.
        refused_write: The journal's disk refuses a transaction.
        slow_write: The journal's disk takes up to a second.
        crash: An agent dies.
        restart: An agent is ended in order, and started again.
        partition: Two hosts cannot reach one another.
        hang: A LUN hangs.
        power_loss: A LUN loses its power.
        lun_reset: A LUN is reset.
        host_death: A host loses its power, with its agent and its guests.
        third: A third node does something.
    """

    slow: float = 0.0
    answer_lost: float = 0.0
    command_lost: float = 0.0
    unsent: float = 0.0
    busy: float = 0.0
    message_lost: float = 0.0
    message_slow: float = 0.0
    doubled: float = 0.0
    refused_write: float = 0.0
    slow_write: float = 0.0
    crash: float = 0.0
    restart: float = 0.0
    partition: float = 0.0
    hang: float = 0.0
    power_loss: float = 0.0
    lun_reset: float = 0.0
    host_death: float = 0.0
    third: float = 0.0


NONE = Rates()

_HIGHEST = Rates(
    slow=0.05,
    answer_lost=0.03,
    command_lost=0.03,
    unsent=0.05,
    busy=0.05,
    message_lost=0.1,
    message_slow=0.2,
    doubled=0.1,
    refused_write=0.05,
    slow_write=0.1,
    crash=0.4,
    restart=0.1,
    partition=0.15,
    hang=0.1,
    power_loss=0.05,
    lun_reset=0.1,
    host_death=0.05,
    third=0.5,
)
_LIKELY = 0.3
"""How likely a seed has faults of a kind."""


def draw(random: Random) -> Rates:
    """The rates of one seed: a few kinds of faults, each more or less often."""
    rates = NONE
    for each in fields(Rates):
        if random.random() < _LIKELY:
            rates = replace(rates, **{each.name: getattr(_HIGHEST, each.name) * random.random()})
    return rates
