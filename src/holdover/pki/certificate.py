"""Certificates in files: whom they name, and how long they are valid."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

WARN_DAYS = 14
"""There is a warning about a certificate that ends within this many days."""


class CertificateError(Exception):
    """A file that cannot be read or holds no certificate; the message names the file."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """What `holdover ca show` says of a certificate.

    Attributes:
        name: The name by which agents know its owner: the first DNS name, or else the common name.
        names: All names and addresses in the certificate.
        authority: Whether its owner may issue other certificates.
        issuer: The name of the authority that issued it.
        begins, ends: The first and the last moment at which it is valid.
        days_left: Whole days until it ends; negative if it has ended.
        sha256: The certificate's fingerprint.
    """

    name: str
    names: tuple[str, ...]
    authority: bool
    issuer: str
    begins: datetime.datetime
    ends: datetime.datetime
    days_left: int
    sha256: str


def load_certificates(file: Path) -> list[x509.Certificate]:
    """All certificates in a PEM file, in the order of the file.

    Raises:
        CertificateError: The file cannot be read, or holds no certificate.
    """
    try:
        return x509.load_pem_x509_certificates(file.read_bytes())
    except OSError as error:
        raise CertificateError(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise CertificateError(f"{file}: holds no certificate in PEM") from error


def describe(certificate: x509.Certificate, now: datetime.datetime) -> Certificate:
    """What a certificate says: its names, its issuer, and the days that it has left."""
    common = _common_name(certificate.subject)
    dns, addresses = _alternative_names(certificate)
    return Certificate(
        name=dns[0] if dns else common,
        names=(*dns, *addresses) or (common,),
        authority=_is_authority(certificate),
        issuer=_common_name(certificate.issuer),
        begins=certificate.not_valid_before_utc,
        ends=certificate.not_valid_after_utc,
        days_left=(certificate.not_valid_after_utc - now).days,
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )


def name_of(certificate: x509.Certificate) -> str:
    """The name by which agents know a certificate's owner."""
    dns, _ = _alternative_names(certificate)
    return dns[0] if dns else _common_name(certificate.subject)


def warnings_of(certificates: Iterable[tuple[Path, x509.Certificate]], now: datetime.datetime) -> list[str]:
    """A warning with the file's name for each certificate that has ended or ends within `WARN_DAYS`."""
    found = []
    for file, each in certificates:
        certificate = describe(each, now)
        if certificate.days_left < WARN_DAYS:
            left = f"ends in {certificate.days_left} days"
            when = (
                left if certificate.days_left >= 0 else f"ended on {certificate.ends:%Y-%m-%d at %H:%M} UTC"
            )
            found.append(f"the certificate of {certificate.name} ({file}) {when}: renew it, then send SIGHUP")
    return found


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _alternative_names(certificate: x509.Certificate) -> tuple[list[str], list[str]]:
    """The DNS names and the IP addresses of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [], []
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return names.get_values_for_type(x509.DNSName), addresses


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False
