"""What a target tells of its portals."""

from __future__ import annotations

import pytest

from holdover.iscsi.target.portals import SocketAddress, format_address, portal_addresses

ANY = "0.0.0.0"  # noqa: S104 - nobody listens
V4, V6 = ("192.0.2.1", 3260), ("2001:db8::1", 3260, 0, 0)


def test_addresses_in_words() -> None:
    assert format_address(V4) == "192.0.2.1:3260"
    assert format_address(V6) == "[2001:db8::1]:3260"


@pytest.mark.parametrize(
    ("listening", "local", "expected"),
    [
        ([V4], V4, ["192.0.2.1:3260"]),
        ([V4, V6], V4, ["192.0.2.1:3260", "[2001:db8::1]:3260"]),
        ([V6, V4], V4, ["[2001:db8::1]:3260", "192.0.2.1:3260"]),
        ([(ANY, 3261)], V4, ["192.0.2.1:3261"]),
        ([("::", 3261, 0, 0)], V6, ["[2001:db8::1]:3261"]),
        ([(ANY, 3260), ("::", 3260, 0, 0)], V4, ["192.0.2.1:3260"]),
        ([(ANY, 3260), V4], V4, ["192.0.2.1:3260"]),
        ([(ANY, 3260), V6], V6, ["[2001:db8::1]:3260"]),
    ],
)
def test_which_portals_are_told(
    listening: list[SocketAddress], local: SocketAddress, expected: list[str]
) -> None:
    assert list(portal_addresses(listening, local)) == expected
