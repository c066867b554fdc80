"""What the agents and the LUNs of a run can do, by its seed alone: nothing else is drawn for it, so that the
other seeds stay what they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from random import Random

_IN_TURN = 5
_PATHS_IN_TURN = 7
_PATHS_AT = 3
_SURPRISES_IN_TURN = 19
_SURPRISES_AT = frozenset({1, 4, 5, 6, 8, 14, 16, 17})
"""The remainders of the seeds that have surprises."""

_FAILING_AT = 16
"""The number of a layout from which on the paths fail often."""

_HARDER_IN_TURN = 23
_HARDER_AT = frozenset({6, 8, 10, 13, 14, 15, 17, 19, 20, 21})
"""The remainders of the seeds that have harder surprises: no seed that a test names has one of them."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of each host's disk to a LUN.

    Attributes:
        initiator_ports, target_ports: How many there are; a path is a pair of both.
        by_port: The LUN keeps one registration for each initiator port, as some arrays do.
        known: The kernel tells the names of the host's initiator ports.
        failures: How many times a second a path fails.
    """

    initiator_ports: int = 1
    target_ports: int = 1
    by_port: bool = False
    known: bool = False
    failures: float = 0.0

    @property
    def several(self) -> bool:
        """Whether the disk is a multipath device."""
        return self.initiator_ports * self.target_ports > 1


ONE_PATH = Layout()


class Odd(Enum):
    """What is wrong with one of the hosts."""

    NOTHING = "nothing"
    NO_GUEST = "its file does not have the guests"
    OTHER_SETTING = "its file has another migrate-pr for them"
    NO_LUN = "its file does not have their last LUN"
    LUN_TWICE = "its file has their first LUN twice"
    NO_PEER = "its file does not have the other hosts"
    OTHER_VERSION = "its agent is of another version"
    COPY = "it is a copy of another host, with the InitiatorName of that host"
    RUNS = "its file says that the guests run there already"


_ODD = tuple(each for each in Odd if each is not Odd.RUNS)


@dataclass(frozen=True, slots=True)
class Surprises:
    """What only some guests, users, arrays and hosts do.

    Attributes:
        exports: Guests have their disks by exports of the agents, with several sessions each.
        unmoved: A guest has ``migrate-pr=off`` on some of its devices.
        mistakes: People and hosts ask for what cannot be done, and old messages come once more.
        strikes: Faults come right when an agent changes registrations.
        odd: What is wrong with the last host.
        memory: An agent has no memory left now and then.
        journals: An agent of an older version is started, or one with a file that lacks a guest.
        inline: The helper's threads carry out a guest's reads of registrations.
        nonsense: LUNs answer nonsense now and then, and lack commands.
        bystanders: Programs that nobody stops with the guest use its disks.
        crowd: Each host has many guests more, without disks.
        alone: Hosts lose their power often, others fence right then, and operators act without the dead host.
        outages: LUNs go offline, are full, or break the sessions of those who change registrations.
        slips: Operators ask for hundreds of things at once, and hosts for what never was.
        starved: An agent has no memory amid a handover.
        slow_threads: The helper's threads are slow, so that reads by them are under way when a gate shuts.
        neighbour: Another guest, which is not registered, has the same disk of the host.
    """

    exports: bool = False
    unmoved: bool = False
    mistakes: bool = False
    strikes: bool = False
    odd: Odd = Odd.NOTHING
    memory: bool = False
    journals: bool = False
    inline: bool = False
    nonsense: bool = False
    bystanders: bool = False
    crowd: bool = False
    alone: bool = False
    outages: bool = False
    slips: bool = False
    starved: bool = False
    neighbour: bool = False
    slow_threads: bool = False


NO_SURPRISES = Surprises()


@dataclass(frozen=True, slots=True)
class Features:
    """What is there beside the usual.

    Attributes:
        early_commit: The agents may do a commit before it is on record.
        full_status: The LUNs have READ FULL STATUS.
        layout: The paths of the hosts' disks.
        surprises: What only some users and arrays do.
    """

    early_commit: bool
    full_status: bool
    layout: Layout = ONE_PATH
    surprises: Surprises = NO_SURPRISES


def features(seed: int) -> Features:
    """Those of a seed.

    Of five seeds, one has early commits, and one lacks READ FULL STATUS; of seven seeds, one has disks with
    several paths; of nineteen seeds, eight have surprises; of twenty-three seeds, ten have harder ones.
    """
    layout = _layout(seed // _PATHS_IN_TURN) if seed % _PATHS_IN_TURN == _PATHS_AT else ONE_PATH
    surprises = _surprises(seed, layout) if seed % _SURPRISES_IN_TURN in _SURPRISES_AT else NO_SURPRISES
    if seed % _HARDER_IN_TURN in _HARDER_AT:
        layout, surprises = _harder(seed, layout, surprises)
    return Features(
        early_commit=seed % _IN_TURN == 0,
        full_status=seed % _IN_TURN != _IN_TURN - 1,
        layout=layout,
        surprises=surprises,
    )


def _surprises(seed: int, layout: Layout) -> Surprises:
    random = Random(f"surprises of {seed}")
    exports = random.random() < 0.5 and not layout.several
    return Surprises(
        exports=exports,
        unmoved=exports and random.random() < 0.4,
        mistakes=random.random() < 0.5,
        strikes=random.random() < 0.6,
        odd=random.choice(_ODD) if random.random() < 0.4 and not layout.several else Odd.NOTHING,
        memory=random.random() < 0.3,
        journals=random.random() < 0.4,
        inline=random.random() < 0.5,
        nonsense=random.random() < 0.3,
        bystanders=random.random() < 0.5 and not layout.several,
        crowd=random.random() < 0.1,
    )


def _harder(seed: int, layout: Layout, surprises: Surprises) -> tuple[Layout, Surprises]:
    random = Random(f"harder surprises of {seed}")
    number, has_paths = random.randrange(_FAILING_AT, _FAILING_AT + 8), random.random() < 0.3
    if has_paths and not surprises.exports and not surprises.bystanders and surprises.odd is Odd.NOTHING:
        layout = _layout(number)
    odd = random.choice((Odd.COPY, Odd.COPY, Odd.RUNS))
    is_odd = random.random() < 0.3 and not layout.several and surprises.odd is Odd.NOTHING
    alone = random.random() < 0.6
    slow_threads = random.random() < 0.25 and not layout.several and not surprises.exports
    return layout, replace(
        surprises,
        strikes=surprises.strikes or alone,
        odd=odd if is_odd else surprises.odd,
        alone=alone,
        outages=random.random() < 0.4 and not layout.several,
        slips=random.random() < 0.2,
        starved=random.random() < 0.2,
        neighbour=random.random() < 0.1 and not layout.several,
        slow_threads=slow_threads,
        inline=surprises.inline or slow_threads,
        bystanders=surprises.bystanders or slow_threads,
    )


def _layout(number: int) -> Layout:
    initiator_ports, target_ports, by_port = ((2, 1, False), (2, 2, False), (2, 2, True), (1, 2, False))[
        number % 4
    ]
    return Layout(
        initiator_ports,
        target_ports,
        by_port,
        known=number // 4 % 2 == 0,
        failures=(0.05, 0.0, 0.3)[number // 8 % 3],
    )
