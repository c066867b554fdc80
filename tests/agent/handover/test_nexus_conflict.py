"""Guests of one host that a handover could hurt."""

from __future__ import annotations

from holdover.agent.handover.nexus_conflict import NexusRegistration, nexus_conflict

OURS = NexusRegistration("db1", "naa.1", "", registered=True)


def test_another_guest_that_is_registered_as_the_same_nexus_is_one() -> None:
    other = NexusRegistration("db2", "naa.1", "", registered=True)
    assert nexus_conflict("db1", [OURS, other]) == other
    assert nexus_conflict("db2", [OURS, other]) == OURS


def test_another_lun_another_nexus_and_no_registration_are_none() -> None:
    others = [
        NexusRegistration("db2", "naa.2", "", registered=True),
        NexusRegistration("db3", "naa.1", "db3", registered=True),
        NexusRegistration("db4", "naa.1", "", registered=False),
        NexusRegistration("db1", "naa.1", "", registered=True),
    ]
    assert nexus_conflict("db1", [OURS, *others]) is None


def test_a_guest_that_has_nothing_yet_has_nexus_conflicts_all_the_same() -> None:
    arriving = NexusRegistration("db1", "naa.1", "", registered=False)
    assert (
        nexus_conflict("db1", [arriving, NexusRegistration("db2", "naa.1", "", registered=True)]) is not None
    )
