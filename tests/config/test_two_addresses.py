"""Drives that may name one target by two addresses."""

from __future__ import annotations

import pytest

from holdover.config.two_addresses import address_warnings
from holdover.guest.options import parse_device

SAN = "iqn.2026-11.org.example:san"


def said(*drives: str) -> list[str]:
    return list(address_warnings("db1", [parse_device(f"scsi-block,drive={each}") for each in drives]))


@pytest.mark.parametrize(
    "drives",
    [
        (f"iscsi://192.0.2.1/{SAN}/0", f"iscsi://192.0.2.1:3260/{SAN}/1"),
        (f"iscsi://192.0.2.1/{SAN}/0", f"iscsi://192.0.2.2/{SAN}2/0"),
        (f"iscsi://192.0.2.1/{SAN}/0", "/dev/sda", "/dev/sdb"),
        (),
    ],
)
def test_one_address_for_each_target(drives: tuple[str, ...]) -> None:
    assert said(*drives) == []


def test_a_name_and_an_address() -> None:
    (text,) = said(f"iscsi://192.0.2.1/{SAN}/0", f"iscsi://san/{SAN}/1", f"iscsi://san/{SAN}/2")
    assert f"guest db1: the drives iscsi://192.0.2.1:3260/{SAN}/0 and iscsi://san:3260/{SAN}/1 may be" in text
    assert "one address" in text


def test_two_ports_and_another_target_beside_it() -> None:
    other = f"iscsi://san/{SAN}-other/0"
    (text,) = said(other, f"iscsi://san/{SAN}/0", f"iscsi://san:3261/{SAN}/0")
    assert other not in text


def test_no_secret_is_shown_and_no_file_with_one_is_read() -> None:
    (text,) = said(f"iscsi://me%hidden@192.0.2.1/{SAN}/0", f"iscsi://me@san/{SAN}/1,secret-file=/none")
    assert "hidden" not in text
