"""The checks of a destination before it registers anything for a handover that is new to it.

The first check: the two hosts are not one I_T nexus to a LUN, as they are if both have the same
InitiatorName. The second check: no registration has one of the spare keys that the source has drawn.

Theory of operation. If the initiator ports of both hosts are known (iSCSI), the destination compares them.
Otherwise it asks the LUN. Just before its message, the source has counted its own registrations with the
guest's key, and those of third nexuses. This handover has registered nothing on the destination yet. Suppose
that the destination's nexus has the guest's key, and that the LUN has no more registrations with that key
than the source has counted. Then the source has counted the destination's registration too, as its own or as
a third nexus's. So the two hosts may be one nexus.
"""

from __future__ import annotations

from holdover.handover.lun_handover import LunHandover
from holdover.handover.registrations import keys_beside
from holdover.reservations.own_key import which_key
from holdover.reservations.questions import read_keys
from holdover.reservations.steps import StepFailed, Steps, settle

_STEP = "REGISTER (probe)"
_REMEDY = "compare InitiatorName, or the WWPNs, of both hosts, and give one of them another"


def require_own_nexus(lun: LunHandover, port: str, source: str, here: str) -> Steps[None]:
    """Check, on the destination, that the two hosts are not one I_T nexus to the LUN. It changes nothing
    there.

    Args:
        lun: The LUN, as the source's message describes it.
        port: This host's initiator port; empty if it is not known.
        source, here: The names of both hosts.

    Raises:
        StepFailed: Both hosts are one nexus, or it cannot be found out.
    """
    if not lun.migrate_pr:
        return
    if port and lun.port:
        if port == lun.port:
            raise StepFailed(
                _STEP,
                f"{source} and {here} are one and the same nexus to this LUN, initiator port {port}: "
                f"{_REMEDY}; nothing was changed",
            )
        return
    key = lun.tracked.key
    if key == 0:
        return
    own = yield from which_key(lun.as_registered, (key,))
    if own.key == 0:
        return
    own, keys = yield from keys_beside(lun.as_registered, own)
    third = lun.others.count(key)
    if own.key == 0 or keys.count(key) > lun.source.count + third:
        return
    if third == 0:
        raise StepFailed(
            _STEP,
            f"{source} and {here} are one and the same nexus to this LUN: key {key:#x}, which only {source} "
            f"has registered, is registered on the nexus of {here}: {_REMEDY}; nothing was changed",
        )
    raise StepFailed(
        _STEP,
        f"key {key:#x} is registered on the nexus of {here} already; it is not known whether both hosts are "
        f"one nexus, because more nexuses than {source}'s have the key: {_REMEDY}; where they differ, "
        f"unregister the key on {here} (holdover pr register LUN --key {key:#x} --new-key 0); nothing was "
        "changed",
    )


def require_new_spares(lun: LunHandover) -> Steps[None]:
    """Check, on the destination, that no nexus has a spare key that the source has drawn. Otherwise a source
    could name a third party's key as its spare key, and have that key preempted.

    Raises:
        StepFailed: One of these keys is registered on the LUN.
    """
    if not lun.migrate_pr:
        return
    yield from settle()
    taken = sorted(set(lun.spares) & set((yield from read_keys())))
    if taken:
        raise StepFailed(
            "READ KEYS",
            f"key {taken[0]:#x}, which the source has drawn for this handover, is registered already, and so "
            "it is a third party's; nothing was changed",
        )
