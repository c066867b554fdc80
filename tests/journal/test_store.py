"""Damage to a journal's file is found whatever it is, reported by name, and left as it is."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from holdover.journal import _store
from holdover.journal._rows import Row, row_of
from holdover.journal._store import Forget, Store
from holdover.journal.journal import JournalDamaged, JournalError
from holdover.journal.records import JournalContents, Record
from tests.journal.support import device, guest, step

DAY = 86400.0


class Site:
    """A journal in a folder, beside the bytes that a crash or a clean end left there."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "journal"

    def fill(self, *, closed: bool) -> JournalContents:
        """Write a journal; either close it or leave its files as they are while it is open."""
        store = Store.open(self.file)
        for number in range(8):
            put(
                store,
                guest(f"g{number}"),
                device(f"g{number}", body=b"x" * 700),
                step(f"h{number}", at=number),
            )
        contents = store.read()
        kept = {path: path.read_bytes() for path in self.file.parent.iterdir()}
        store.close()
        if not closed:
            for path, data in kept.items():
                path.write_bytes(data)
            self.beside("-shm").unlink()
        return contents

    def beside(self, suffix: str) -> Path:
        return self.file.with_name(self.file.name + suffix)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.file.parent.iterdir()}

    def refused(self, kind: type[JournalError] = JournalDamaged, *, says: str) -> None:
        """Opening it fails with these words, and has changed neither the file nor its log."""
        before = self.files()
        with pytest.raises(JournalError, match=says) as refusal:
            Store.open(self.file)
        assert type(refusal.value) is kind
        assert str(refusal.value).startswith(f"journal {self.file}: ")
        after = self.files()
        assert {name: after.get(name) for name in before if name != "journal-shm"} == {
            name: data for name, data in before.items() if name != "journal-shm"
        }


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def put(store: Store, *records: Record) -> None:
    start = store.last_position
    store.last_position += len(records)
    store.commit([row_of(record, start + number) for number, record in enumerate(records, 1)])


def contents_after_opening(file: Path) -> JournalContents:
    store = Store.open(file)
    contents = store.read()
    store.close()
    return contents


@pytest.fixture(scope="module", params=["closed", "killed"])
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[Path, JournalContents]]:
    """A folder with a journal that was closed, or whose process was killed; and what is in it."""
    with tempfile.TemporaryDirectory() as folder:
        site = Site(Path(folder))
        yield site.file.parent, site.fill(closed=request.param == "closed")


@pytest.mark.parametrize("closed", [True, False])
def test_an_undamaged_file_is_read_again(site: Site, closed: bool) -> None:
    contents = site.fill(closed=closed)
    assert site.beside("-wal").exists() is not closed
    assert contents_after_opening(site.file) == contents


def found_or_harmless(site: Site, contents: JournalContents) -> bool:
    """Whether opening is refused, with the files untouched; or else all that was written is there."""
    before = site.files()
    try:
        seen = contents_after_opening(site.file)
    except JournalError as error:
        after = site.files()
        return str(site.file) in str(error) and {name: after[name] for name in before} == before
    return seen == contents


@given(st.data())
@settings(max_examples=250, deadline=None)
def test_any_changed_byte_is_found_or_changes_nothing(
    filled: tuple[Path, JournalContents], data: st.DataObject
) -> None:
    folder, contents = filled
    name = data.draw(st.sampled_from(("journal", "journal-wal", "journal.mark")), "file")
    damaged = bytearray((folder / name).read_bytes() if (folder / name).exists() else b"")
    assume(damaged)
    places = data.draw(
        st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4, unique=True), "bytes"
    )
    flipped = data.draw(st.integers(1, 255), "by")
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        for place in places:
            damaged[place] ^= flipped
        Path(copy, name).write_bytes(damaged)
        assert found_or_harmless(Site(Path(copy)), contents)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_that_was_cut_off_is_refused_or_whole(
    filled: tuple[Path, JournalContents], data: st.DataObject
) -> None:
    folder, contents = filled
    name = data.draw(st.sampled_from(("journal", "journal-wal", "journal.mark")), "file")
    assume((folder / name).exists())
    size = data.draw(st.integers(0, (folder / name).stat().st_size - 1), "size")
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        os.truncate(Path(copy, name), size)
        assert found_or_harmless(Site(Path(copy)), contents)


def test_a_lost_log_is_missed(site: Site) -> None:
    site.fill(closed=False)
    site.beside("-wal").unlink()
    site.refused(says=r"transactions \d+ to 9 were acknowledged and are missing: its write-ahead log is lost")


def test_an_old_copy_is_refused_until_the_mark_is_removed(site: Site) -> None:
    old = site.fill(closed=True)
    copy = site.file.read_bytes()
    store = Store.open(site.file)
    put(store, guest("new"))
    store.close()
    site.file.write_bytes(copy)
    site.refused(says=rf"this file is an old copy; put the newest file back.*remove {site.file}.mark")
    site.beside(".mark").unlink()
    assert contents_after_opening(site.file) == old


def test_another_hosts_journal_is_refused(site: Site, tmp_path: Path) -> None:
    site.fill(closed=True)
    ours = site.file.with_name("journal.mark").read_bytes()
    for path in tmp_path.iterdir():
        path.unlink()
    site.fill(closed=True)
    site.beside(".mark").write_bytes(ours)
    site.refused(says="its mark belongs to another journal")


def test_a_journal_that_is_gone_is_not_begun_anew_by_itself(site: Site) -> None:
    site.fill(closed=True)
    site.file.unlink()
    site.refused(says=r"its mark says that 9 transactions were acknowledged; put it back.* or remove")
    site.beside(".mark").unlink()
    assert contents_after_opening(site.file) == JournalContents((), (), ())


def test_an_empty_file_is_refused(site: Site) -> None:
    site.file.touch()
    site.refused(says="damaged: it is empty; replace it by a good copy")
    assert not site.beside(".mark").exists()


def test_a_file_of_something_else_is_refused_and_gets_no_mark(site: Site) -> None:
    site.file.write_bytes(b"no database at all\n" * 1000)
    site.refused(JournalError, says="it is not a journal of Holdover, or its first bytes are damaged")
    site.file.unlink()
    with sqlite3.connect(site.file) as connection:
        connection.execute("CREATE TABLE guest (name TEXT)")
    connection.close()
    site.refused(JournalError, says=r"not a journal of Holdover \(application_id is 0x0, not 0x484c444a\)")
    assert not site.beside(".mark").exists()


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (4, "a newer Holdover wrote it .its schema is 4, this Holdover reads only 3."),
        (0, "an earlier Holdover wrote it .schema 0."),
    ],
)
def test_another_schema_is_refused(site: Site, version: int, says: str) -> None:
    site.fill(closed=True)
    alter(site.file, f"PRAGMA user_version = {version}")
    site.refused(JournalError, says=says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("DELETE FROM device WHERE guest = 'g3'", "24 rows were written and 23 are readable"),
        ("UPDATE device SET body = x'00' WHERE guest = 'g3'", "table device: row g3/naa.* wrong checksum"),
        ("UPDATE step SET open = 0 WHERE handover_id = 'h1'", "table step: row 6 has a wrong checksum"),
        ("UPDATE guest SET name = 'g9' WHERE name = 'g3'", "table guest: row g9 has a wrong checksum"),
        ("UPDATE seal SET sequence = 100", "its seal is missing or damaged"),
        ("DELETE FROM seal", "its seal is missing or damaged"),
        (
            "ALTER TABLE guest ADD COLUMN more TEXT",
            "table guest differs from the table that Holdover creates",
        ),
        ("CREATE INDEX more ON guest (uuid)", "table more differs from the table that Holdover creates"),
    ],
)
def test_a_row_changed_by_hand_is_found(site: Site, change: str, says: str) -> None:
    site.fill(closed=True)
    alter(site.file, change)
    site.refused(says=says)


def test_a_row_from_the_past_is_found(site: Site) -> None:
    store = Store.open(site.file)
    put(store, device(body=b"old"))
    old = sqlite3.connect(site.file).execute("SELECT * FROM device").fetchone()
    put(store, device(body=b"new"))
    store.close()
    alter(site.file, "REPLACE INTO device VALUES (?, ?, ?, ?, ?)", old)
    site.refused(says="some rows are older than the newest that were written")


def alter(file: Path, change: str, values: tuple[object, ...] = ()) -> None:
    connection = sqlite3.connect(file)
    with connection:
        connection.execute(change, values)
    connection.close()


def test_somebody_elses_writing_is_noticed_by_the_next_transaction(site: Site) -> None:
    store = Store.open(site.file)
    alter(site.file, "UPDATE seal SET sequence = 100")
    with pytest.raises(JournalDamaged, match="another program wrote to it"):
        put(store, guest())
    store.close()


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_a_file_replaced_while_in_use_is_noticed_by_the_next_transaction(site: Site, suffix: str) -> None:
    store = Store.open(site.file)
    shutil.copyfile(site.beside(suffix), site.beside(".copy"))
    site.beside(".copy").rename(site.beside(suffix))
    with pytest.raises(JournalDamaged, match="was replaced while the agent used it"):
        put(store, guest())
    store.close()


def test_a_file_removed_while_in_use_is_noticed_by_the_next_transaction(site: Site) -> None:
    store = Store.open(site.file)
    site.file.unlink()
    with pytest.raises(JournalError, match="No such file"):
        put(store, guest())
    store.close()


def test_no_folder_no_file_and_no_permission(site: Site, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=f"the folder {tmp_path / 'no'} does not exist; create it"):
        Store.open(tmp_path / "no" / "journal")
    with pytest.raises(JournalError, match="it is not a regular file"):
        Store.open(tmp_path)


def test_it_is_for_its_user_alone(site: Site) -> None:
    store = Store.open(site.file)
    put(store, guest())
    assert {path.name: path.stat().st_mode & 0o777 for path in site.file.parent.iterdir()} == {
        "journal": 0o600,
        "journal-wal": 0o600,
        "journal-shm": 0o600,
        "journal.mark": 0o600,
    }
    store.close()


def test_each_transaction_is_synced(site: Site) -> None:
    store = Store.open(site.file)
    settings = {
        name: store._writer.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    }
    assert settings == {"journal_mode": "wal", "synchronous": 2}
    store.close()


def test_what_a_crash_leaves_of_a_creation_does_no_harm(site: Site) -> None:
    for suffix in (".new", ".new-wal", ".new-journal", ".mark"):
        site.beside(suffix).write_bytes(b"" if suffix == ".mark" else b"half")
    assert contents_after_opening(site.file) == JournalContents((), (), ())
    assert sorted(site.files()) == ["journal", "journal.mark"]


def test_a_failed_transaction_leaves_nothing(site: Site) -> None:
    store = Store.open(site.file)
    put(store, step("h1", "one"))
    before = store.read()
    twice = row_of(step("h1", "two"), store.last_position)
    with pytest.raises(JournalError, match="UNIQUE"):
        store.commit([row_of(guest(), 0), twice])
    assert store.read() == before
    put(store, guest())
    store.close()
    assert contents_after_opening(site.file).guests == (guest(),)


def test_closed_handovers_lose_their_states_and_then_their_names(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_store, "KEEP_IDENTITIES", 2)
    store = Store.open(site.file)
    put(store, step("open", "one", at=0.0), step("open", "two", at=0.0))
    for name, closed_at in (("ancient", 10 * DAY), ("old", 20 * DAY), ("older", 10 * DAY), ("new", 49 * DAY)):
        put(store, step(name, "one", at=closed_at), step(name, "done", is_open=False, at=closed_at))
    store.prune(50 * DAY)

    def states(name: str) -> list[str]:
        return [state.state for state in store.steps(name)]

    assert states("open") == ["one", "two"]
    assert states("ancient") == [], "closed 40 days ago, and two others since"
    assert states("old") == ["done"], "closed 30 days ago"
    assert states("older") == ["done"], "closed 40 days ago, but last but one"
    assert states("new") == ["one", "done"], "closed a day ago"
    assert [newest.handover_id for newest in store.read().handovers] == ["open", "old", "older", "new"]
    store.close()
    assert len(contents_after_opening(site.file).handovers) == 4


_numbers = st.integers(0, 250)
_one_change = st.builds(
    lambda number, body: row_of(device(f"g{number % 3}", f"naa.{number}", body), 0),
    _numbers,
    st.binary(max_size=4),
) | st.builds(lambda number: Forget(f"g{number % 3}", f"naa.{number}" if number % 7 else None), _numbers)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(_one_change, max_size=120), min_size=1, max_size=3))
def test_one_transaction_of_many_changes_is_as_many_of_one(transactions: list[list[Row | Forget]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        many, one = Path(folder, "many"), Path(folder, "one")
        stores = [Store.open(file) for file in (many, one)]
        for changes in transactions:
            stores[0].commit(changes)
            for change in changes:
                stores[1].commit([change])
        for store in stores:
            store.close()
        assert contents_after_opening(many) == contents_after_opening(one)


def test_a_transaction_may_be_larger_than_a_statement(site: Site) -> None:
    store = Store.open(site.file)
    for body in (b"first", b"second"):
        put(store, *(device(f"g{number % 7}", f"naa.{number}", body) for number in range(500)))
    store.close()
    contents = contents_after_opening(site.file)
    assert len(contents.devices) == 500
    assert {each.body for each in contents.devices} == {b"second"}


def test_positions_go_on_after_the_last_that_is_kept(site: Site) -> None:
    store = Store.open(site.file)
    put(store, step("h1", "one"), step("h1", "two"))
    store.close()
    store = Store.open(site.file)
    put(store, step("h1", "three"))
    assert [state.state for state in store.steps("h1")] == ["one", "two", "three"]
    store.close()


def test_the_log_is_brought_into_the_file_and_used_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store, "_CHECKPOINT_ROWS", 100)
    store = Store.open(site.file)
    for number in range(500):
        put(store, device("db1", "naa.1", b"%d" % number))
        store.checkpoint()
    assert site.beside("-wal").stat().st_size < 1 << 20
    store.commit([Forget("db1", "naa.1")])
    assert store.read().devices == ()
    store.close()
