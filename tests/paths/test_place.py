from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdover.iscsi.url import IscsiUrl
from holdover.paths.iscsi import Identity, IscsiPath, IscsiSessions
from holdover.paths.place import HostDevice, PlaceError, open_path, parse_place
from holdover.paths.sgio import SgIo, SgioPath

URL = "iscsi://127.0.0.1:3260/iqn.2026-11.org.holdover:disk/3"
IDENTITY = Identity("iqn.2026-11.org.holdover:host", bytes(6))


@pytest.mark.parametrize("text", ["/dev/sda", "/dev/sg3", "/dev/disk/by-id/wwn-0x6001405"])
def test_a_path_is_a_device(text: str) -> None:
    place = parse_place(text)
    assert place == HostDevice(Path(text))
    assert str(place) == text


def test_a_url_is_iscsi() -> None:
    place = parse_place(URL)
    assert isinstance(place, IscsiUrl)
    assert str(place) == URL


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
    with pytest.raises(PlaceError, match=words):
        parse_place(text)


def test_each_place_has_its_kind_of_path() -> None:
    async def main() -> None:
        io = SgIo()
        sessions = IscsiSessions()
        device = open_path(parse_place("/dev/sda"), IDENTITY, sessions, io)
        assert isinstance(device, SgioPath)
        assert device.name == "/dev/sda"
        remote = open_path(parse_place(URL), IDENTITY, sessions, io)
        assert isinstance(remote, IscsiPath)
        assert remote.name == URL
        await device.close()
        await remote.close()
        io.close()

    asyncio.run(main())
