from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdover.lun.commands.sanitize import SanitizeWork
from holdover.lun.errors import StoreError
from holdover.lun.reservations import PersistentReservation, Registration, ReservationState
from holdover.lun.store import SERIAL, ReservationStore, SanitizeStore, kept_serial
from holdover.scsi.cdbs.opcodes import ReservationType
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import FcTransportID, IscsiTransportID, SasTransportID
from tests.lun.support import A2, A, B

KEPT = ReservationState(
    (Registration(A, 1, all_target_ports=True), Registration(A2, 1), Registration(B, (1 << 64) - 1)),
    PersistentReservation(ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY, B),
    0,
    True,
)


def make_store(folder: Path) -> tuple[ReservationStore, Path]:
    return ReservationStore(folder / "lun"), folder / "lun.pr"


class TestReservations:
    def test_nothing_kept_is_the_empty_state(self, tmp_path: Path) -> None:
        store, _ = make_store(tmp_path)
        assert store.load() == ReservationState()

    @pytest.mark.parametrize("kind", ReservationType)
    def test_what_was_saved_is_loaded_by_another(self, tmp_path: Path, kind: ReservationType) -> None:
        holder = None if kind.all_registrants else B
        state = ReservationState(KEPT.registrations, PersistentReservation(kind, holder), 0, True)
        make_store(tmp_path)[0].save(state)
        assert make_store(tmp_path)[0].load() == state

    def test_the_empty_state_with_aptpl(self, tmp_path: Path) -> None:
        store, path = make_store(tmp_path)
        store.save(ReservationState(aptpl=True))
        assert path.exists()
        assert store.load() == ReservationState(aptpl=True)

    def test_without_aptpl_nothing_is_left(self, tmp_path: Path) -> None:
        store, path = make_store(tmp_path)
        store.save(KEPT)
        store.save(ReservationState(KEPT.registrations, KEPT.reservation, 5, False))
        assert not path.exists()
        assert store.load() == ReservationState()

    @pytest.mark.parametrize(
        "initiator",
        [
            FcTransportID(bytes(range(8))),
            SasTransportID(bytes(range(8))),
            IscsiTransportID("iqn.2026-01.test:" + "ü" * 50, bytes(6)),
        ],
        ids=str,
    )
    def test_every_kind_of_initiator_port(
        self, tmp_path: Path, initiator: FcTransportID | SasTransportID | IscsiTransportID
    ) -> None:
        state = ReservationState((Registration(ITNexus(initiator, 65535), 9),), None, 0, True)
        store, _ = make_store(tmp_path)
        store.save(state)
        assert store.load() == state

    @given(data=st.data())
    def test_a_damaged_file_is_refused_by_name(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        store, path = make_store(tmp_path_factory.mktemp("damaged"))
        store.save(KEPT)
        whole = path.read_bytes().rstrip()
        at = data.draw(st.integers(0, len(whole) - 1))
        byte = data.draw(st.integers(0, 255).filter(lambda value: value != whole[at]))
        cut = data.draw(st.booleans())
        path.write_bytes(whole[:at] if cut else whole[:at] + bytes([byte]) + whole[at + 1 :])
        damaged = path.read_bytes()
        with pytest.raises(StoreError, match=r"lun\.pr is damaged"):
            store.load()
        assert path.read_bytes() == damaged

    @pytest.mark.parametrize(
        ("state", "problem"),
        [
            (ReservationState((Registration(A, 1), Registration(A, 2)), aptpl=True), "registered twice"),
            (ReservationState((Registration(A, 0),), aptpl=True), "reservation key"),
            (
                ReservationState(
                    (Registration(A, 1),), PersistentReservation(ReservationType(1), B), 0, True
                ),
                "holder is not registered",
            ),
            (
                ReservationState((), PersistentReservation(ReservationType(7), None), 0, True),
                "holder is not registered",
            ),
            (
                ReservationState(
                    (Registration(A, 1),), PersistentReservation(ReservationType(7), A), 0, True
                ),
                "wrong kind of holder",
            ),
        ],
    )
    def test_a_state_that_cannot_be_is_refused(
        self, tmp_path: Path, state: ReservationState, problem: str
    ) -> None:
        store, _ = make_store(tmp_path)
        store.save(state)
        with pytest.raises(StoreError, match=problem):
            store.load()

    def test_another_format_is_refused(self, tmp_path: Path) -> None:
        store, path = make_store(tmp_path)
        store.save(KEPT)
        path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2'))
        with pytest.raises(StoreError, match="format is 2"):
            store.load()

    def test_what_cannot_be_read_is_refused(self, tmp_path: Path) -> None:
        store, path = make_store(tmp_path)
        path.mkdir()
        with pytest.raises(StoreError, match=r"lun\.pr cannot be read"):
            store.load()

    def test_a_crash_before_the_rename_leaves_the_state_before(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store, _ = make_store(tmp_path)
        store.save(KEPT)

        def crash(source: Path, target: Path) -> None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "rename", crash)
        with pytest.raises(OSError, match="Input/output"):
            store.save(ReservationState((Registration(A, 5),), None, 0, True))
        assert make_store(tmp_path)[0].load() == KEPT


class TestSerial:
    def test_it_is_drawn_once(self, tmp_path: Path) -> None:
        serial = kept_serial(tmp_path / "lun")
        assert SERIAL.fullmatch(serial)
        assert kept_serial(tmp_path / "lun") == serial
        assert kept_serial(tmp_path / "other") != serial

    def test_it_moves_with_its_file(self, tmp_path: Path) -> None:
        serial = kept_serial(tmp_path / "lun")
        (tmp_path / "lun.serial").rename(tmp_path / "moved.serial")
        assert kept_serial(tmp_path / "moved") == serial

    @pytest.mark.parametrize("content", [b"", b"a b", b"\xff", b"x" * 65])
    def test_a_damaged_one_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "lun.serial").write_bytes(content)
        with pytest.raises(StoreError, match=r"lun\.serial"):
            kept_serial(tmp_path / "lun")
        assert (tmp_path / "lun.serial").read_bytes() == content

    def test_where_nothing_can_be_written(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="cannot be written"):
            kept_serial(tmp_path / "missing" / "lun")


class TestSanitizeStore:
    @pytest.mark.parametrize(
        "work",
        [SanitizeWork(1024), SanitizeWork(1024, bytes(range(256)) * 2, 3, invert=True, ause=True)],
    )
    def test_it_is_found_again_until_it_has_ended(self, tmp_path: Path, work: SanitizeWork) -> None:
        store = SanitizeStore(tmp_path / "lun")
        assert store.load(1024) is None
        store.save(work)
        assert SanitizeStore(tmp_path / "lun").load(1024) == work
        store.save(None)
        assert store.load(1024) is None

    def test_every_damaged_byte_is_noticed(self, tmp_path: Path) -> None:
        store = SanitizeStore(tmp_path / "lun")
        store.save(SanitizeWork(1024, ause=True))
        path = tmp_path / "lun.sanitize"
        whole = path.read_bytes()
        for at in range(len(whole) - 1):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x01]) + whole[at + 1 :])
            with pytest.raises(StoreError, match=r"lun\.sanitize is damaged"):
                store.load(1024)
        path.write_bytes(b"")
        with pytest.raises(StoreError, match=r"lun\.sanitize is damaged"):
            store.load(1024)

    def test_a_pattern_of_another_length(self, tmp_path: Path) -> None:
        store = SanitizeStore(tmp_path / "lun")
        store.save(SanitizeWork(1024, b"short"))
        with pytest.raises(StoreError, match="not one block long"):
            store.load(1024)
