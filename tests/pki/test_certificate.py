"""Certificates in files."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from holdover.pki.authority import init, issue
from holdover.pki.certificate import CertificateError, describe, load_certificates, warnings_of

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


def test_names_and_days(tmp_path: Path) -> None:
    authority = init(tmp_path, 3650, NOW)
    made = issue("host-a", tmp_path, ["10.0.0.1", "a.example"], 30, NOW)
    both = tmp_path / "both"
    both.write_bytes(made.certificate.read_bytes() + authority.certificate.read_bytes())
    host, ca = (describe(each, NOW) for each in load_certificates(both))
    assert (host.name, host.names) == ("host-a", ("host-a", "a.example", "10.0.0.1"))
    assert (host.authority, host.issuer, host.days_left) == (False, "Holdover authority", 30)
    assert (ca.name, ca.authority, ca.days_left) == ("Holdover authority", True, 3650)
    assert len(host.sha256) == 64


@pytest.mark.parametrize(
    ("later", "text"),
    [
        (0, None),
        (16, None),
        (17, "ends in 13 days"),
        (30, "ends in 0 days"),
        (31, "ended on 2026-12-23 at 00:00 UTC"),
    ],
)
def test_a_certificate_that_ends_soon_is_warned_of(tmp_path: Path, later: int, text: str | None) -> None:
    authority = init(tmp_path, 3650, NOW)
    made = issue("host-a", tmp_path, [], 30, NOW)
    files = [(each, load_certificates(each)[0]) for each in (made.certificate, authority.certificate)]
    found = warnings_of(files, NOW + datetime.timedelta(days=later))
    if text is None:
        assert found == []
    else:
        (warning,) = found
        assert text in warning
        assert "host-a" in warning
        assert str(made.certificate) in warning


def test_what_holds_no_certificate_is_named(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"none\.crt: No such file"):
        load_certificates(tmp_path / "none.crt")
    made = init(tmp_path, 10, NOW)
    with pytest.raises(CertificateError, match=r"ca\.key: holds no certificate in PEM"):
        load_certificates(made.key)
