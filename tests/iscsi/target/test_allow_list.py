from __future__ import annotations

import pytest

from holdover.iscsi.target.allow_list import AllowList, parse_allow_list
from holdover.iscsi.target.refusals import LoginRefusals


def test_an_empty_list_admits_all() -> None:
    allow = AllowList()
    assert allow.admits_name("iqn.2026-11.org.example:any")
    assert allow.admits_address("192.0.2.1")


def test_names_and_patterns_in_whatever_case() -> None:
    allow = parse_allow_list(["iqn.2026-11.org.Example:One", "iqn.2026-11.org.example:db*"], [])
    for name, admitted in (("one", True), ("db1", True), ("two", False)):
        assert allow.admits_name(f"iqn.2026-11.org.example:{name}") is admitted


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("192.0.2.7", True),
        ("::ffff:192.0.2.7", True),
        ("192.0.3.7", False),
        ("2001:db8::1", True),
        ("2001:db8::2", False),
        ("2001:db8::1%eth0", True),
    ],
)
def test_addresses_and_networks(host: str, admitted: bool) -> None:
    assert parse_allow_list([], ["192.0.2.0/24", "2001:db8::1"]).admits_address(host) is admitted


@pytest.mark.parametrize(
    ("names", "addresses", "problem"),
    [
        ([""], [], "empty"),
        (["db1"], [], "iSCSI name 'db1'"),
        ([], ["192.0.2.1/24"], "host bits set"),
        ([], ["example.org"], "does not appear to be"),
    ],
)
def test_what_cannot_be_meant(names: list[str], addresses: list[str], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_allow_list(names, addresses)


def test_refusals_are_told_now_and_then_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    refusals = LoginRefusals("iqn.2026-11.org.example:t", lambda: now)
    for _ in range(1000):
        refusals.tell("192.0.2.1:5", "no\nlines of its own")
    now += 11
    refusals.tell("192.0.2.1:5", "again")
    first, second = (record.message for record in caplog.records)
    assert first == "target iqn.2026-11.org.example:t refuses 192.0.2.1:5: no\\nlines of its own"
    assert second.endswith("again (999 more were refused since the last such line)")
