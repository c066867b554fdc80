from __future__ import annotations

from collections.abc import Callable

import pytest

from holdover.lun.legacy import LegacyOutcome, release, reserve
from holdover.lun.reservations import PersistentReservation, Registration, ReservationState
from holdover.scsi.cdbs.opcodes import ReservationType as Type
from holdover.scsi.nexus import ITNexus
from tests.lun.support import A, B, C

NOTHING = ReservationState()
Rule = Callable[[ReservationState, ITNexus | None, ITNexus], LegacyOutcome]


class TestWithoutRegistrations:
    def test_who_comes_first_reserves(self) -> None:
        assert reserve(NOTHING, None, A) == LegacyOutcome(A)

    def test_again(self) -> None:
        assert reserve(NOTHING, A, A) == LegacyOutcome(A)

    def test_another_conflicts(self) -> None:
        assert reserve(NOTHING, A, B) == LegacyOutcome(A, conflict=True)

    def test_the_holder_releases(self) -> None:
        assert release(NOTHING, A, A) == LegacyOutcome(None)

    def test_another_releases_nothing(self) -> None:
        assert release(NOTHING, A, B) == LegacyOutcome(A)
        assert release(NOTHING, None, B) == LegacyOutcome(None)


@pytest.mark.parametrize("rule", [reserve, release])
class TestCompatibleReservationHandling:
    """SPC-4 5.13.3: GOOD without effect for who has access anyway, as SPC-2 for all others."""

    @pytest.mark.parametrize("kind", Type)
    def test_beside_a_persistent_reservation(self, rule: Rule, kind: Type) -> None:
        holder = None if kind.all_registrants else A
        registrations = (Registration(A, 1), Registration(B, 2))
        state = ReservationState(registrations, PersistentReservation(kind, holder))
        assert rule(state, None, A) == LegacyOutcome(None)
        shut_out = kind in (Type.WRITE_EXCLUSIVE, Type.EXCLUSIVE_ACCESS)
        assert rule(state, None, B) == LegacyOutcome(None, conflict=shut_out)
        assert rule(state, None, C) == LegacyOutcome(None, conflict=True)

    def test_beside_registrations_alone_everybody_conflicts(self, rule: Rule) -> None:
        state = ReservationState((Registration(A, 1),))
        assert rule(state, None, A) == LegacyOutcome(None, conflict=True)
        assert rule(state, None, B) == LegacyOutcome(None, conflict=True)
