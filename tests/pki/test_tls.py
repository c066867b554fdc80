"""Credentials: what can be used, what is refused by name, and what is renewed."""

from __future__ import annotations

import datetime
import ssl
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from holdover.config.agent_file import ApiConfig, ConfigError
from holdover.pki.tls import Credentials, explain
from tests.agent.certified import NOW, Authority


def test_contexts_verify_both_sides(tmp_path: Path) -> None:
    credentials = Credentials(Authority.make(tmp_path).issue("host-a"))
    assert credentials.name == "host-a"
    assert credentials.server.verify_mode is ssl.CERT_REQUIRED
    assert credentials.client.verify_mode is ssl.CERT_REQUIRED
    assert credentials.client.check_hostname
    for context in (credentials.server, credentials.client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert len(context.get_ca_certs()) == 1


def test_an_agent_without_a_certificate_has_none() -> None:
    assert Credentials.of(ApiConfig(listen="127.0.0.1:0")) is None


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    files, other = authority.issue("host-a"), authority.issue("host-b")
    for wrong, message in (
        (replace(files, certificate=tmp_path / "none"), "none: No such file.*holdover ca issue"),
        (replace(files, key=tmp_path / "none"), "none: No such file"),
        (replace(files, ca=files.key), r"host-a\.key: holds no certificate"),
        (replace(files, key=other.key), r"host-b\.key: cannot be used with .*host-a\.crt"),
        (replace(files, key=files.ca), r"ca\.crt: cannot be used with .*host-a\.crt"),
    ):
        with pytest.raises(ConfigError, match=message):
            Credentials(wrong)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(tmp_path: Path) -> None:
    files = Authority.make(tmp_path).issue("host-a")
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    files.key.write_bytes(key.private_bytes(*form, serialization.BestAvailableEncryption(b"secret")))
    with pytest.raises(ConfigError, match=r"host-a\.key: .*without a passphrase"):
        Credentials(files)


def test_renewed_files_end_the_warning(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    credentials = Credentials(authority.issue("host-a", days=5))
    (warning,) = credentials.warnings(NOW)
    assert "host-a" in warning
    authority.issue("host-a")
    assert credentials.warnings(NOW) == (warning,)
    credentials.reload()
    assert credentials.warnings(NOW) == ()
    assert len(credentials.warnings(NOW + datetime.timedelta(days=29))) == 1


def test_what_cannot_be_used_does_not_replace_what_is_in_use(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path)
    files, other = authority.issue("host-a", days=5), authority.issue("host-b")
    credentials = Credentials(files)
    files.key.write_bytes(other.key.read_bytes())
    with pytest.raises(ConfigError, match="cannot be used with"):
        credentials.reload()
    files.certificate.write_bytes(other.certificate.read_bytes())
    with pytest.raises(ConfigError, match="names host-b, and not host-a as before"):
        credentials.reload()
    assert len(credentials.warnings(NOW)) == 1


def test_only_tls_errors_are_explained() -> None:
    assert explain(ConnectionRefusedError("x")) is None
    wrapped = OSError("x")
    wrapped.__cause__ = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    assert explain(wrapped) is None or "TLS" in str(explain(wrapped))
