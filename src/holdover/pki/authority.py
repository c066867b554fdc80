"""A small certificate authority for agents and their operators, for users who have no other authority.

A folder holds it: ``ca.crt`` and ``ca.key``, and ``NAME.crt`` and ``NAME.key`` for each name for which it has
issued a certificate. All files are PEM with mode 0600; keys are ECDSA on P-256. A host needs its own two
files and ``ca.crt``. ``ca.key`` stays in the folder.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from holdover.pki.certificate import CertificateError, load_certificates

_CLOCKS_DIFFER = datetime.timedelta(hours=1)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")
_CA = "ca"


class AuthorityError(Exception):
    """No certificate was made; the message says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was issued.

    Attributes:
        name: The host or the operator that the certificate names.
        certificate, key, ca: The files.
        ends: The last moment at which the certificate is valid.
        replaced: Whether it replaced an older certificate.
    """

    name: str
    certificate: Path
    key: Path
    ca: Path
    ends: datetime.datetime
    replaced: bool


def init(folder: Path, days: int, now: datetime.datetime, *, replace: bool = False) -> Issued:
    """Make an authority in ``folder``, valid for ``days`` from ``now``.

    Raises:
        AuthorityError: There is an authority already and ``replace`` is not set, or a file cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = _common_name("Holdover authority")
    builder = (
        _builder(name, name, key, now, _end(now, days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(authority=True), critical=True)
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise AuthorityError(f"{folder}: {error.strerror}") from error
    warning = "it makes every certificate of this authority worthless"
    return _write(folder, _CA, key, builder.sign(key, hashes.SHA256()), warning if not replace else None)


def issue(
    name: str,
    folder: Path,
    addresses: Sequence[str],
    days: int,
    now: datetime.datetime,
    *,
    replace: bool = False,
) -> Issued:
    """Issue a certificate for ``name``, a host or an operator, by the authority in ``folder``.

    The certificate is also valid for each of ``addresses`` (DNS names or IP addresses).

    Raises:
        AuthorityError: ``name`` or an address cannot be in a certificate; there is no authority, or the
            authority ends before ``days`` are over; there is a certificate of that name already and
            ``replace`` is not set; a file cannot be written.
    """
    if name == _CA or not _NAME.fullmatch(name):
        raise AuthorityError(
            f"{name!r}: a name is 1 to 64 letters, digits, '.', '_' and '-', and not {_CA!r}"
        )
    names = [x509.DNSName(name), *(_general_name(each) for each in addresses)]
    authority, authority_key = _load(folder)
    end = _end(now, days)
    if end > authority.not_valid_after_utc:
        left = (authority.not_valid_after_utc - now).days
        raise AuthorityError(
            f"{folder}: the authority ends in {left} days, before the {days} of the certificate; "
            "choose fewer with --days, or make a new authority"
        )
    key = ec.generate_private_key(ec.SECP256R1())
    both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = (
        _builder(_common_name(name), authority.subject, key, now, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(authority=False), critical=True)
        .add_extension(both, critical=False)
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(names))), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
    )
    warning = "the old one stays good until it ends"
    made = builder.sign(authority_key, hashes.SHA256())
    return _write(folder, name, key, made, warning if not replace else None)


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _end(now: datetime.datetime, days: int) -> datetime.datetime:
    if days < 1:
        raise AuthorityError(f"--days {days}: at least 1")
    try:
        return now + datetime.timedelta(days=days)
    except OverflowError:
        raise AuthorityError(f"--days {days}: too many") from None


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime.datetime,
    end: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _key_usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(text: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(text))
    if not _NAME.fullmatch(text.removesuffix(".")):
        raise AuthorityError(f"--address {text}: neither a DNS name nor an IP address")
    return x509.DNSName(text)


def _load(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate, key = _files(folder, _CA)
    try:
        (authority,) = load_certificates(certificate)
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except CertificateError as error:
        raise AuthorityError(f"{error}; make an authority with: holdover ca init {folder}") from error
    except OSError as error:
        raise AuthorityError(f"{key}: {error.strerror}; it is where the authority was made") from error
    except (ValueError, TypeError) as error:
        raise AuthorityError(f"{key}: is no private key, or {certificate} is not one certificate") from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != authority.public_key():
        raise AuthorityError(f"{key}: is not the key of {certificate}")
    return authority, private


def _files(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.crt", folder / f"{name}.key"


def _write(
    folder: Path,
    name: str,
    key: ec.EllipticCurvePrivateKey,
    certificate: x509.Certificate,
    why_not: str | None,
) -> Issued:
    """Write both files. If one of them exists already, do so only if ``why_not`` is None."""
    files = _files(folder, name)
    there = [file for file in files if file.exists()]
    if there and why_not is not None:
        raise AuthorityError(f"{there[0]}: is there already; --replace makes a new one, but {why_not}")
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        for file, content in zip(files, (certificate.public_bytes(encoding), private), strict=True):
            _replace(file, content)
    except OSError as error:
        raise AuthorityError(f"{error.filename or folder}: {error.strerror}") from error
    end = certificate.not_valid_after_utc
    return Issued(name, *files, folder / f"{_CA}.crt", end, replaced=bool(there))


def _replace(file: Path, content: bytes) -> None:
    """Replace a file as a whole or not at all. From the first moment, only its owner can read it."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)
    new.replace(file)
