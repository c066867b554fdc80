"""Guests of one host that a handover could hurt."""

from __future__ import annotations

from holdover.agent.neighbours import Standing, neighbour

OURS = Standing("db1", "naa.1", "", registered=True)


def test_another_guest_that_is_registered_as_the_same_nexus_is_one() -> None:
    other = Standing("db2", "naa.1", "", registered=True)
    assert neighbour("db1", [OURS, other]) == other
    assert neighbour("db2", [OURS, other]) == OURS


def test_another_lun_another_nexus_and_no_registration_are_none() -> None:
    others = [
        Standing("db2", "naa.2", "", registered=True),
        Standing("db3", "naa.1", "db3", registered=True),
        Standing("db4", "naa.1", "", registered=False),
        Standing("db1", "naa.1", "", registered=True),
    ]
    assert neighbour("db1", [OURS, *others]) is None


def test_a_guest_that_has_nothing_yet_has_neighbours_all_the_same() -> None:
    arriving = Standing("db1", "naa.1", "", registered=False)
    assert neighbour("db1", [arriving, Standing("db2", "naa.1", "", registered=True)]) is not None
