"""The LUNs of each guest of a simulation, and the nexuses by which it has them on each host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from holdover.paths.iscsi import isid_of
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import IscsiTransportID
from tests.simulation.features import ONE_PATH, Layout, Odd, Surprises
from tests.simulation.san import Lun

_NO_HOME = frozenset({Odd.NO_GUEST, Odd.OTHER_SETTING, Odd.NO_LUN, Odd.NO_PEER, Odd.OTHER_VERSION, Odd.RUNS})
"""Whose guests cannot leave from such a host, and never come there."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A LUN of a guest; ``disk``: the host's own disk, which all its guests share, instead of iSCSI.

    ``layout``: the paths of that disk. ``moved``: whether the guest's reservations move with it. ``copies``:
    hosts with the InitiatorName of another one, which is its value.
    """

    lun: Lun
    disk: bool = False
    layout: Layout = ONE_PATH
    moved: bool = True
    copies: tuple[tuple[str, str], ...] = ()

    @property
    def drive(self) -> str:
        """The place of the LUN in an agent's file."""
        name = self.lun.name
        return f"/dev/{name}" if self.disk else f"iscsi://10.0.0.9:3260/iqn.2026-11.org.example:{name}/0"

    @property
    def again(self) -> str:
        """Another way to the same LUN, by another portal of its target."""
        return f"{self.drive}-again" if self.disk else self.drive.replace("10.0.0.9", "10.0.0.8")

    def is_copied(self, *hosts: str | None) -> bool:
        """Whether these hosts have one InitiatorName, and so one nexus."""
        return set(hosts) in [set(each) for each in self.copies]


def nexuses_of(host: str, guest: str, placement: Placement, initiator: str = "") -> tuple[ITNexus, ...]:
    """The nexuses by which a LUN knows a guest on a host: one for each path.

    ``initiator``: the one that has logged in, at the export of a guest that is not one nexus.
    """
    host = dict(placement.copies).get(host, host)
    if not placement.disk:
        return (ITNexus(IscsiTransportID(initiator_of(host), isid_of(f"{guest}\0{initiator}"))),)
    layout = placement.layout
    return tuple(
        ITNexus(
            IscsiTransportID(initiator_of(host), isid_of(f"kernel{port}")), 1 if layout.by_port else target
        )
        for port in range(layout.initiator_ports)
        for target in range(1, layout.target_ports + 1)
    )


def initiator_of(host: str) -> str:
    """The InitiatorName of a host."""
    return f"iqn.2026-11.org.example:{host}"


def draw_guests(
    random: Random, surprises: Surprises, layout: Layout, luns: list[Lun], hosts: Sequence[str]
) -> dict[str, tuple[str, list[Placement]]]:
    """The guests of a run by name: where each belongs, and its LUNs."""
    count = random.choice((1, 2, 2))
    is_copied = surprises.odd is Odd.COPY and not surprises.exports
    if layout.several or is_copied:
        count = 1
    found = {}
    for number in range(count):
        home = random.choice(hosts)
        if surprises.odd in _NO_HOME and home == hosts[-1]:
            home = hosts[0]
        # a host's own disk is one nexus for all its guests, so only one guest may have it
        disk = count == 1 and (layout.several or random.random() < (0.7 if is_copied else 0.4))
        disk = disk and not surprises.exports
        copies: tuple[tuple[str, str], ...] = ()
        if surprises.odd is Odd.COPY:
            copies = ((hosts[-1], hosts[1]),)
        chosen = [lun for lun in luns if random.random() < 0.8] or luns[:1]
        found[f"db{number + 1}"] = (home, [Placement(lun, disk, layout, copies=copies) for lun in chosen])
    if surprises.unmoved:
        name, (home, placements) = found.popitem()
        placements[-1] = replace(placements[-1], moved=False)
        found[name] = home, placements
    return found
