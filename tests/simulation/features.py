"""What the agents and the LUNs of a run can do, by its seed alone: nothing else is drawn for it, so that the
other seeds stay what they are."""

from __future__ import annotations

from dataclasses import dataclass

_IN_TURN = 5
_PATHS_IN_TURN = 7
_PATHS_AT = 3


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


@dataclass(frozen=True, slots=True)
class Features:
    """What is there beside the usual.

    Attributes:
        early_commit: The agents may do a commit before it is on record.
        full_status: The LUNs have READ FULL STATUS.
        layout: The paths of the hosts' disks.
    """

    early_commit: bool
    full_status: bool
    layout: Layout = ONE_PATH


def features(seed: int) -> Features:
    """Those of a seed.

    Of five seeds, one has early commits, and one lacks READ FULL STATUS; of seven seeds, one has disks with
    several paths.
    """
    return Features(
        early_commit=seed % _IN_TURN == 0,
        full_status=seed % _IN_TURN != _IN_TURN - 1,
        layout=_layout(seed // _PATHS_IN_TURN) if seed % _PATHS_IN_TURN == _PATHS_AT else ONE_PATH,
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
