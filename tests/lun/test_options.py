from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.lun.errors import LunOptionError
from holdover.lun.options import LunOptions, parse_lun_options


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("file=/d/lun", LunOptions(Path("/d/lun"))),
        ("file=lun,size=512", LunOptions(Path("lun"), 512)),
        ("size=3K,file=lun", LunOptions(Path("lun"), 3 << 10)),
        ("file=lun,readonly=on", LunOptions(Path("lun"), read_only=True)),
        ("file=lun,readonly=off", LunOptions(Path("lun"))),
        ("file=lun,size=64M", LunOptions(Path("lun"), 64 << 20)),
        ("file=lun,size=64m", LunOptions(Path("lun"), 64 << 20)),
        ("file=lun,size=2G", LunOptions(Path("lun"), 2 << 30)),
        ("file=lun,size=1T,serial=x-1", LunOptions(Path("lun"), 1 << 40, "x-1")),
        ("file=a,,b,,,size=512", LunOptions(Path("a,b,"), 512)),
        ("file=a=b", LunOptions(Path("a=b"))),
        ("file=,,", LunOptions(Path(","))),
    ],
)
def test_read(text: str, options: LunOptions) -> None:
    assert parse_lun_options(text) == options


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "unknown option ''"),
        ("file=lun,", "unknown option ''"),
        ("file=lun,sise=1M", "unknown option 'sise'"),
        ("lun", "unknown option 'lun'"),
        ("size=1M", "file=PATH is missing"),
        ("file", "file needs a value"),
        ("file=", "file needs a value"),
        ("file=lun,size=", "size needs a value"),
        ("file=lun,file=lun", "file is given twice"),
        ("file=lun,readonly=yes", "readonly=yes is not on or off"),
        ("file=lun,size=big", "size=big is not a number"),
        ("file=lun,size=-1M", "size=-1M is not a number"),
        ("file=lun,size=1.5G", "size=1.5G is not a number"),
        ("file=lun,size=1P", "size=1P is not a number"),
        ("file=lun,size=٣K", "is not a number"),
        ("file=lun,size=0", "is 0 bytes, not a multiple of 512"),
        ("file=lun,size=1000", "is 1000 bytes, not a multiple of 512"),
        ("file=lun,size=999999999999T", "more than the largest file can have"),
        ("file=lun,serial=a b", "serial must be"),
        ("file=lun,serial=" + "x" * 65, "serial must be"),
        ("file=lun,serial=ü", "serial must be"),
        ("file=a\0b", "contains a NUL"),
    ],
)
def test_refused(text: str, problem: str) -> None:
    with pytest.raises(LunOptionError, match=problem) as raised:
        parse_lun_options(text)
    assert repr(text) in str(raised.value)


@given(st.text(min_size=1).filter(lambda name: "\0" not in name))
def test_any_name_passes_with_its_commas_doubled(name: str) -> None:
    assert parse_lun_options(f"size=512,file={name.replace(',', ',,')}").file == Path(name)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(LunOptionError):
        assert parse_lun_options(text).file
