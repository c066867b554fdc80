"""The files that keep a logical unit's state through a power loss.

The state is its reservations (APTPL), its serial number, and a running sanitize operation. Beside FILE, the
medium, there are:

FILE.pr
    Registrations and reservation, while the most recent APTPL is one; without it there is no such file. A
    JSON document, {"format": 1, "sha256": "...", "state": {...}}, with the digest of the state's bytes.
FILE.sanitize
    A sanitize operation that has begun and has not ended well. It begins again when the logical unit is
    opened (SBC-3 4.11.2). A JSON document of the same form.
FILE.serial
    The serial number that was drawn for the logical unit when it was first opened without one. If you move
    FILE, move this file too: then hosts still recognise the logical unit. If you copy FILE, do not copy this
    file: two logical units must not have one name.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

import msgspec

from holdover.lun.commands.sanitize import SanitizeWork
from holdover.lun.durable import remove_file, replace_file
from holdover.lun.errors import StoreError
from holdover.lun.reservations import PersistentReservation, Registration, ReservationState
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.errors import DecodeError
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import decode_transport_id

SERIAL = re.compile(r"[!-~]{1,64}")
"""The form of a serial number: printable ASCII without spaces."""

_FORMAT = 1


class _Nexus(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    initiator: str  # the TransportID's bytes in hexadecimal
    target_port: int


class _Registration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    nexus: _Nexus
    key: str  # 16 hexadecimal digits, because JSON readers lose the low bits of large numbers
    all_target_ports: bool


class _Reservation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: int
    holder: _Nexus | None


class _SavedState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    registrations: tuple[_Registration, ...]
    reservation: _Reservation | None


class _Sanitize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pattern: str | None  # in hexadecimal; none erases
    passes: int
    invert: bool
    ause: bool


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    sha256: str
    state: msgspec.Raw


class ReservationStore:
    """The file that keeps registrations and reservation through a loss of power.

    Args:
        medium: The file that the logical unit has as its medium; the store is beside it.
    """

    def __init__(self, medium: Path) -> None:
        self._path = medium.with_name(medium.name + ".pr")

    def load(self) -> ReservationState:
        """The state that was kept; the empty state when nothing was kept.

        Raises:
            StoreError: The file exists but cannot be read, is damaged, or has another format.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return ReservationState()
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error.strerror}") from error
        try:
            return _decode(data)
        except (msgspec.MsgspecError, DecodeError, ValueError) as error:
            raise StoreError(f"{self._path} is damaged, and was left as it is: {error}") from error

    def save(self, state: ReservationState) -> None:
        """Keep a state that has APTPL, or keep nothing. When this returns, that is on stable storage.

        Raises:
            OSError: The system refuses. A restart finds the earlier state, or this state.
        """
        if state.aptpl:
            replace_file(self._path, _encode(state))
        else:
            remove_file(self._path)


class SanitizeStore:
    """The file that keeps a sanitize operation until it has ended well.

    Args:
        medium: The file that the logical unit has as its medium; the store is beside it.
    """

    def __init__(self, medium: Path) -> None:
        self._path = medium.with_name(medium.name + ".sanitize")

    def load(self, size: int, block_length: int = 512) -> SanitizeWork | None:
        """The operation to begin again on a medium of this size, or None.

        Raises:
            StoreError: The file exists but cannot be read, is damaged, or has another format.
        """
        try:
            kept = msgspec.json.decode(_unseal(self._path.read_bytes()), type=_Sanitize)
            pattern = None if kept.pattern is None else bytes.fromhex(kept.pattern)
            if kept.passes < 1 or (pattern is not None and len(pattern) != block_length):
                raise ValueError("the pattern is not one block long, or there is no pass")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._path} cannot be read: {error.strerror}") from error
        except (msgspec.MsgspecError, ValueError) as error:
            raise StoreError(f"{self._path} is damaged, and was left as it is: {error}") from error
        return SanitizeWork(size, pattern, kept.passes, kept.invert, ause=kept.ause)

    def save(self, work: SanitizeWork | None) -> None:
        """Keep an operation, or keep nothing. When this returns, that is on stable storage.

        Raises:
            OSError: The system refuses.
        """
        if work is None:
            remove_file(self._path)
            return
        pattern = None if work.pattern is None else work.pattern.hex()
        replace_file(self._path, _seal(_Sanitize(pattern, work.passes, work.invert, work.ause)))


def _encode(state: ReservationState) -> bytes:
    registrations = tuple(
        _Registration(_encode_nexus(each.nexus), f"{each.key:016x}", each.all_target_ports)
        for each in state.registrations
    )
    return _seal(_SavedState(registrations, _encode_reservation(state.reservation)))


def _seal(content: _SavedState | _Sanitize) -> bytes:
    body = msgspec.json.encode(content)
    document = _Document(_FORMAT, hashlib.sha256(body).hexdigest(), msgspec.Raw(body))
    return msgspec.json.encode(document) + b"\n"


def _unseal(data: bytes) -> bytes:
    document = msgspec.json.decode(data, type=_Document)
    if document.format != _FORMAT:
        raise ValueError(f"its format is {document.format}, and this program reads only {_FORMAT}")
    body = bytes(document.state)
    if hashlib.sha256(body).hexdigest() != document.sha256:
        raise ValueError("the checksum is wrong")
    return body


def _encode_reservation(held: PersistentReservation | None) -> _Reservation | None:
    if held is None:
        return None
    return _Reservation(held.type, None if held.holder is None else _encode_nexus(held.holder))


def _encode_nexus(nexus: ITNexus) -> _Nexus:
    return _Nexus(nexus.initiator.encode().hex(), nexus.target_port)


def _decode(data: bytes) -> ReservationState:
    kept = msgspec.json.decode(_unseal(data), type=_SavedState)
    registrations = tuple(
        Registration(_decode_nexus(each.nexus), int(each.key, 16), each.all_target_ports)
        for each in kept.registrations
    )
    state = ReservationState(registrations, _decode_reservation(kept.reservation), aptpl=True)
    _check(state)
    return state


def _decode_nexus(nexus: _Nexus) -> ITNexus:
    initiator, _ = decode_transport_id(bytes.fromhex(nexus.initiator))
    return ITNexus(initiator, nexus.target_port)


def _decode_reservation(held: _Reservation | None) -> PersistentReservation | None:
    if held is None:
        return None
    holder = None if held.holder is None else _decode_nexus(held.holder)
    return PersistentReservation(ReservationType(held.type), holder)


def _check(state: ReservationState) -> None:
    """Raise ValueError if a state breaks a rule that is true for every state (see `reservations`)."""
    held = state.reservation
    if len({each.nexus for each in state.registrations}) != len(state.registrations):
        raise ValueError("an I_T nexus is registered twice")
    if any(not 0 < each.key < 1 << 64 for each in state.registrations):
        raise ValueError("a reservation key is not a number from 1 to FFFFFFFFFFFFFFFFh")
    if held is None:
        return
    if held.type.all_registrants != (held.holder is None):
        raise ValueError(f"a reservation of type {held.type:X}h has the wrong kind of holder")
    if not any(state.holds(each.nexus) for each in state.registrations):
        raise ValueError("the reservation's holder is not registered")


def kept_serial(medium: Path) -> str:
    """The serial number of the logical unit on this medium. If there is none, this draws one and keeps it.

    Raises:
        StoreError: The file with the serial number is damaged, or cannot be read or written.
    """
    path = medium.with_name(medium.name + ".serial")
    try:
        serial = path.read_text("ascii").strip()
    except FileNotFoundError:
        return _draw_serial(path)
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    if not SERIAL.fullmatch(serial):
        raise StoreError(f"{path} is damaged: {serial!r} is not a serial number")
    return serial


def _draw_serial(path: Path) -> str:
    serial = secrets.token_hex(8)
    try:
        replace_file(path, serial.encode() + b"\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    return serial
