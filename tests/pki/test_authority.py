"""The small authority: what it makes, and what it refuses."""

from __future__ import annotations

import datetime
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from holdover.pki.authority import AuthorityError, init, issue
from holdover.pki.certificate import load_certificates

NOW = datetime.datetime(2026, 11, 23, tzinfo=datetime.UTC)


def test_certificates_for_both_directions(tmp_path: Path) -> None:
    authority = init(tmp_path / "ca", 3650, NOW)
    assert authority.ends == NOW + datetime.timedelta(days=3650)
    made = issue("host-a", tmp_path / "ca", ["10.0.0.1", "a.example", "a.example"], 30, NOW)
    (ca,) = load_certificates(made.ca)
    (certificate,) = load_certificates(made.certificate)
    certificate.verify_directly_issued_by(ca)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["host-a", "a.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc == made.ends == NOW + datetime.timedelta(days=30)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    init(tmp_path / "ca", 10, NOW)
    issue("host-a", tmp_path / "ca", [], 10, NOW)
    files = sorted((tmp_path / "ca").iterdir())
    assert [file.name for file in files] == ["ca.crt", "ca.key", "host-a.crt", "host-a.key"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_nothing_is_written_over_unless_it_is_said(tmp_path: Path) -> None:
    made = [init(tmp_path, 100, NOW), issue("host-a", tmp_path, [], 10, NOW)]
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(AuthorityError, match=r"ca\.crt: is there already; --replace .* worthless"):
        init(tmp_path, 100, NOW)
    with pytest.raises(AuthorityError, match=r"host-a\.crt: is there already; --replace"):
        issue("host-a", tmp_path, [], 10, NOW)
    (tmp_path / "host-b.key").write_text("mine", encoding="utf-8")
    with pytest.raises(AuthorityError, match=r"host-b\.key: is there already"):
        issue("host-b", tmp_path, [], 10, NOW)
    (tmp_path / "host-b.key").unlink()
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
    again = issue("host-a", tmp_path, [], 20, NOW, replace=True)
    assert (again.replaced, *(each.replaced for each in made)) == (True, False, False)
    assert again.certificate.read_bytes() != before[again.certificate]
    assert again.key.read_bytes() != before[again.key]


@pytest.mark.parametrize("name", ["", "ca", "a b", "a/b", "../a", "-a", "a-", "é", "a" * 65, "a\n"])
def test_names_that_cannot_be_in_a_certificate(tmp_path: Path, name: str) -> None:
    init(tmp_path, 10, NOW)
    with pytest.raises(AuthorityError, match="a name is 1 to 64 letters"):
        issue(name, tmp_path, [], 10, NOW)


def test_what_cannot_be_made_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AuthorityError, match=r"ca\.crt: No such file.*holdover ca init"):
        issue("host-a", tmp_path, [], 10, NOW)
    init(tmp_path, 10, NOW)
    with pytest.raises(AuthorityError, match="the authority ends in 10 days, before the 11"):
        issue("host-a", tmp_path, [], 11, NOW)
    with pytest.raises(AuthorityError, match="--address a b: neither a DNS name nor an IP address"):
        issue("host-a", tmp_path, ["a b"], 10, NOW)
    for days, message in ((0, "--days 0: at least 1"), (10**9, "--days 1000000000: too many")):
        with pytest.raises(AuthorityError, match=message):
            init(tmp_path / "other", days, NOW)
    with pytest.raises(AuthorityError, match=r"Not a directory|File exists"):
        init(tmp_path / "ca.crt", 10, NOW)
    init(tmp_path / "other", 10, NOW)
    (tmp_path / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(AuthorityError, match=r"ca\.key: is not the key of"):
        issue("host-a", tmp_path, [], 10, NOW)
    (tmp_path / "ca.key").write_text("nothing", encoding="utf-8")
    with pytest.raises(AuthorityError, match=r"ca\.key: is no private key"):
        issue("host-a", tmp_path, [], 10, NOW)
    (tmp_path / "ca.key").unlink()
    with pytest.raises(AuthorityError, match=r"ca\.key: No such file"):
        issue("host-a", tmp_path, [], 10, NOW)
    assert not (tmp_path / "host-a.crt").exists()
