"""`--device` in QEMU's syntax."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.guest.options import DeviceOptionError, DeviceOptions, parse_device, parse_properties


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (
            "scsi-block,id=disk0,drive=iscsi://h/iqn.a/0,migrate-pr=on",
            DeviceOptions("disk0", "iscsi://h/iqn.a/0", True),
        ),
        ("driver=scsi-block,drive=d", DeviceOptions(None, "d", None)),
        ("drive=d,driver=scsi-block", DeviceOptions(None, "d", None)),
        ("scsi-block,drive=iscsi://u%a,,b@h/iqn/0", DeviceOptions(None, "iscsi://u%a,b@h/iqn/0", None)),
        ("scsi-block,drive=a,,,id=x", DeviceOptions("x", "a,", None)),
        ("scsi-block,drive=a=b", DeviceOptions(None, "a=b", None)),
    ],
)
def test_devices(text: str, options: DeviceOptions) -> None:
    assert parse_device(text) == options


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("on", True),
        ("yes", True),
        ("true", True),
        ("y", True),
        ("off", False),
        ("no", False),
        ("false", False),
        ("n", False),
    ],
)
def test_on_and_off(word: str, value: bool) -> None:
    assert parse_device(f"scsi-block,drive=d,migrate-pr={word}").migrate_pr is value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "property without a name in ''"),
        ("id=a,drive=d", "the driver is missing; the first word must be scsi-block"),
        ("scsi-hd,drive=d", "driver 'scsi-hd' is not known; it must be scsi-block"),
        ("scsi-block,,drive=d", "the driver is missing"),
        ("scsi-block,,x", "driver 'scsi-block,x' is not known"),
        (
            "scsi-block,drive=d,lun=1",
            "property 'lun' is not known; 'id', 'drive', 'secret-file', 'migrate-pr' are",
        ),
        ("scsi-block,drive=d,migrate_pr=on", "property 'migrate_pr' is not known"),
        ("scsi-block,drive=d,migrate-pr=ON", "migrate-pr='ON' must be on or off"),
        ("scsi-block,drive=d,migrate-pr=", "migrate-pr='' must be on or off"),
        ("scsi-block,drive=d,migrate-pr", "property 'migrate-pr' has no value"),
        ("scsi-block,drive=d,id=a,id=b", "property 'id' is given twice"),
        ("scsi-block,driver=scsi-block,drive=d", "property 'driver' is given twice"),
        ("scsi-block,id=a", "property 'drive' is missing"),
        ("scsi-block,drive=", "property 'drive' is missing"),
        ("scsi-block,drive=d,", "property without a name"),
        ("scsi-block,drive=d,=x", "property without a name"),
        ("scsi-block,drive=d,id=0a", "id '0a' must start with a letter"),
        ("scsi-block,drive=d,id=", "id '' must start with a letter"),
    ],
)
def test_what_is_refused_is_named(text: str, problem: str) -> None:
    with pytest.raises(DeviceOptionError, match=problem):
        parse_device(text)


_words = st.text(st.characters(codec="utf-8", exclude_characters=",="), min_size=1, max_size=12)


@given(st.dictionaries(_words, st.text(max_size=12), min_size=1, max_size=5))
def test_escaped_commas_come_back(properties: dict[str, str]) -> None:
    text = ",".join(f"{name}={value}".replace(",", ",,") for name, value in properties.items())
    assert parse_properties(text, "--x", "first") == properties


@given(st.text() | st.builds(lambda tail: "scsi-block," + tail, st.text("driveid=,-on", max_size=30)))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        options = parse_device(text)
    except DeviceOptionError:
        return
    assert options.drive
