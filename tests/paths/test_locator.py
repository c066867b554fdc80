from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.iscsi.url import IscsiUrl
from holdover.paths.iscsi import InitiatorIdentity, IscsiPath, IscsiSessions
from holdover.paths.locator import HostDevice, LocatorError, open_path, parse_locator
from holdover.paths.sgio import SgIo, SgioPath

URL = "iscsi://127.0.0.1:3260/iqn.2026-11.org.holdover:disk/3"
IDENTITY = InitiatorIdentity("iqn.2026-11.org.holdover:host", bytes(6))


@pytest.mark.parametrize("text", ["/dev/sda", "/dev/sg3", "/dev/disk/by-id/wwn-0x6001405"])
def test_a_path_is_a_device(text: str) -> None:
    locator = parse_locator(text)
    assert locator == HostDevice(Path(text))
    assert str(locator) == text


def test_a_url_is_iscsi() -> None:
    locator = parse_locator(URL)
    assert isinstance(locator, IscsiUrl)
    assert str(locator) == URL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sda", "by-id"),
        ("dev/sda", "by-id"),
        ("", "by-id"),
        ("/dev/s\0da", "zero bytes"),
        ("http://host/iqn.2026-11.org:x/0", "iscsi://"),
        ("iscsi://host", "host"),
    ],
)
def test_anything_else_is_refused_with_a_reason(text: str, words: str) -> None:
    with pytest.raises(LocatorError, match=words):
        parse_locator(text)


def test_each_locator_has_its_kind_of_path() -> None:
    async def main() -> None:
        io = SgIo()
        sessions = IscsiSessions()
        device = open_path(parse_locator("/dev/sda"), IDENTITY, sessions, io)
        assert isinstance(device, SgioPath)
        assert device.name == "/dev/sda"
        remote = open_path(parse_locator(URL), IDENTITY, sessions, io)
        assert isinstance(remote, IscsiPath)
        assert remote.name == URL
        await device.close()
        await remote.close()
        io.close()

    asyncio.run(main())
