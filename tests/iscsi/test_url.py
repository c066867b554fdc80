"""iscsi:// URLs."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdover.iscsi.errors import IscsiUrlError
from holdover.iscsi.url import IscsiUrl, parse_iscsi_url

IQN = "iqn.2001-04.com.example:t"


@pytest.mark.parametrize(
    ("url", "parsed"),
    [
        (f"iscsi://10.0.0.1/{IQN}/0", IscsiUrl("10.0.0.1", 3260, IQN, 0)),
        (f"iscsi://host:3261/{IQN}/16383", IscsiUrl("host", 3261, IQN, 16383)),
        (f"iscsi://[fe80::1]:3261/{IQN}/1", IscsiUrl("fe80::1", 3261, IQN, 1)),
        (f"iscsi://[::1]/{IQN}/1", IscsiUrl("::1", 3260, IQN, 1)),
        (f"ISCSI://host/{IQN.upper()}/1", IscsiUrl("host", 3260, IQN, 1)),
        (f"iscsi://anna%secret@host/{IQN}/1", IscsiUrl("host", 3260, IQN, 1, "anna", "secret")),
        (f"iscsi://an%20na%se%40c%2Fret@host/{IQN}/1", IscsiUrl("host", 3260, IQN, 1, "an na", "se@c/ret")),
        # Every percent sign begins a percent code: the first separates.
        (f"iscsi://anna%abc%20d@host/{IQN}/1", IscsiUrl("host", 3260, IQN, 1, "anna", "abc d")),
        (f"iscsi://host/{IQN.replace(':', '%3A')}/1", IscsiUrl("host", 3260, IQN, 1)),
    ],
)
def test_parts(url: str, parsed: IscsiUrl) -> None:
    assert parse_iscsi_url(url) == parsed


@pytest.mark.parametrize(
    ("url", "part"),
    [
        ("http://host", "must start with iscsi://"),
        ("iscsi://", "host is missing"),
        (f"iscsi:///{IQN}/0", "host is missing"),
        ("iscsi://host", "target name is missing"),
        ("iscsi://host/", "target name is missing"),
        (f"iscsi://host/{IQN}", "LUN is missing"),
        (f"iscsi://host/{IQN}/", "LUN is missing"),
        (f"iscsi://host/{IQN}/16384", "LUN '16384' is not a number within 0 to 16383"),
        (f"iscsi://host/{IQN}/-1", "LUN '-1'"),
        (f"iscsi://host/{IQN}/1/2", "LUN '1/2'"),
        (f"iscsi://host/{IQN}/٣", "LUN"),
        ("iscsi://host/disk/0", "target name: iSCSI name 'disk'"),
        (f"iscsi://host:0/{IQN}/0", "port '0' is not a number within 1 to 65535"),
        (f"iscsi://host:/{IQN}/0", "port ''"),
        (f"iscsi://host:x/{IQN}/0", "port 'x'"),
        (f"iscsi://fe80::1/{IQN}/0", "IPv6 address belongs in brackets"),
        (f"iscsi://[fe80::1/{IQN}/0", "no closing bracket"),
        (f"iscsi://[fe80::1]x/{IQN}/0", "'x' after the bracketed host"),
        (f"iscsi://anna@host/{IQN}/0", "password is missing"),
        (f"iscsi://anna%@host/{IQN}/0", "password is empty"),
        (f"iscsi://%secret@host/{IQN}/0", "user is empty"),
    ],
)
def test_errors_name_the_part(url: str, part: str) -> None:
    with pytest.raises(IscsiUrlError) as raised:
        parse_iscsi_url(url)
    assert part in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "url", [IscsiUrl("host", 3260, IQN, 0), IscsiUrl("::1", 1, IQN, 7), IscsiUrl("h", 1, IQN, 7, "a b", "s")]
)
def test_text_is_a_url_without_the_secret(url: IscsiUrl) -> None:
    text = str(url)
    assert "%s" not in text
    if url.user is None:
        assert parse_iscsi_url(text) == url


@settings(max_examples=1000)
@given(st.text(max_size=60))
def test_any_text_is_a_url_or_an_error(text: str) -> None:
    for candidate in (text, f"iscsi://{text}", f"iscsi://{text}/{IQN}/0", f"iscsi://h/{text}"):
        with contextlib.suppress(IscsiUrlError):
            parse_iscsi_url(candidate)
