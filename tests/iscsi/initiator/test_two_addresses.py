"""When the ends of sessions show that two addresses lead to one target, and when they do not."""

from __future__ import annotations

import pytest

from holdover.iscsi.initiator.two_addresses import TwoAddresses

PORT, A, B = "port", "192.0.2.1:3260", "san:3260"


class Sessions:
    """Sessions of one port, in which each step takes as long as the last login says."""

    def __init__(self) -> None:
        self.addresses: TwoAddresses[str | int] = TwoAddresses()
        self.now = 0.0

    def log_in(self, address: str, after: float = 0.0) -> None:
        self.now += after
        self.addresses.begins(PORT, address)
        self.addresses.succeeds(PORT, address, self.now)

    def lose(self, address: str, after: float = 0.1) -> tuple[str, str] | None:
        self.now += after
        return self.addresses.lost(PORT, address, self.now)

    @property
    def found(self) -> list[tuple[str | int, tuple[str, str]]]:
        return list(self.addresses.found())


@pytest.fixture
def sessions() -> Sessions:
    return Sessions()


def test_sessions_that_end_one_another_in_turn(sessions: Sessions) -> None:
    sessions.log_in(A)
    said = []
    for new, old in ((B, A), (A, B)) * 4:
        sessions.log_in(new, after=3600)  # a drive may be idle for long
        said.append(sessions.lose(old))
    assert said == [None, None, None, (B, A), None, None, None, None]
    assert sessions.found == [(PORT, (B, A))]


def test_the_end_is_seen_before_the_login_is_complete(sessions: Sessions) -> None:
    sessions.log_in(A)
    said = []
    for new, old in ((B, A), (A, B)) * 2:
        sessions.addresses.begins(PORT, new)
        said.append(sessions.lose(old))
        sessions.addresses.succeeds(PORT, new, sessions.now)
    assert said == [None, None, None, (B, A)]


def test_an_address_that_is_used_no_more_is_forgotten(sessions: Sessions) -> None:
    test_sessions_that_end_one_another_in_turn(sessions)
    sessions.addresses.leaves(PORT, A)
    assert sessions.found == []
    sessions.addresses.leaves(PORT, B)
    assert sessions.lose(B) is None
    test_sessions_that_end_one_another_in_turn(sessions)


def test_an_address_that_comes_back_begins_anew(sessions: Sessions) -> None:
    sessions.log_in(A)
    for new, old in ((B, A), (A, B), (B, A)):
        sessions.log_in(new)
        assert sessions.lose(old) is None
    sessions.addresses.leaves(PORT, A)
    said = []
    for new, old in ((A, B), (B, A)) * 2:
        sessions.log_in(new)
        said.append(sessions.lose(old))
    assert said == [None, None, None, (A, B)]


def test_a_session_is_not_ended_by_one_that_was_there_before_it(sessions: Sessions) -> None:
    sessions.log_in(B)
    sessions.log_in(A, after=1)
    assert sessions.lose(A) is None
    said = []
    for new, old in ((A, B), (B, A)) * 2:
        sessions.log_in(new)
        said.append(sessions.lose(old))
    assert said == [None, None, None, (A, B)]


def test_one_address_whose_sessions_end_often(sessions: Sessions) -> None:
    sessions.log_in(B)
    for _ in range(20):
        sessions.log_in(A, after=10)
        assert sessions.lose(A) is None


def test_a_target_that_drops_sessions_while_the_other_is_not_there(sessions: Sessions) -> None:
    for _ in range(20):
        sessions.addresses.begins(PORT, B)
        sessions.log_in(A)
        assert sessions.lose(A) is None
        sessions.addresses.fails(PORT, B)


def test_a_network_that_ends_all_sessions_at_once(sessions: Sessions) -> None:
    for _ in range(20):
        sessions.log_in(A)
        sessions.log_in(B)
        for address in (A, B):
            assert sessions.lose(address) is None


def test_ends_long_after_the_login(sessions: Sessions) -> None:
    sessions.log_in(A)
    for new, old in ((B, A), (A, B)) * 10:
        sessions.log_in(new)
        assert sessions.lose(old, after=60) is None


def test_another_port_has_sessions_of_its_own(sessions: Sessions) -> None:
    for number in range(20):
        sessions.addresses.begins(number, A)
        sessions.addresses.succeeds(number, A, 0)
        sessions.addresses.begins(number, B)
        sessions.addresses.succeeds(number, B, 0)
        assert sessions.addresses.lost(number, A, 0.1) is None
    assert sessions.found == []
