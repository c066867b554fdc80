"""Somebody on the SAN who has no registration and writes to a LUN all the time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from holdover.demo.messages import Connect, End, Report, decode_said, encode
from tests.rig.separate_site import SAN, SeparateSite


@contextmanager
def intruder(site: SeparateSite, lun: int = 0) -> Iterator[list[Report]]:
    """The intruder writes in the meantime; its report is in the list at the end."""
    reports: list[Report] = []
    with site[SAN].converse(sys.executable, "-m", "holdover.demo.intruder") as process:
        assert process.stdin is not None
        process.stdin.write(encode(Connect(site.url_of(lun))))
        process.stdin.flush()
        try:
            yield reports
        finally:
            output, _ = process.communicate(encode(End()), timeout=600)
        reports += [each for line in output.splitlines() if isinstance(each := decode_said(line), Report)]


def is_refused(reports: list[Report]) -> None:
    """The intruder has tried, and no write was carried out."""
    (report,) = reports
    assert report.accepted == 0
    assert report.refused > 0
