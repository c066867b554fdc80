"""The list of tracked guests, and what the kernel says of a QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdover.libvirt.lock_rules import Listed
from holdover.lock_server.qemu_facts import QemuFacts, facts_of
from holdover.lock_server.tracked_list import TrackedGuest, TrackedList, listed, read_list, write_list

LIST = TrackedList({"db1": TrackedGuest("u1", "a"), "db2": TrackedGuest("", "b")})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "new" / "tracked-guests.json"
    write_list(file, LIST)
    assert read_list(file) == LIST
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "uuid", "is_tracked"),
    [
        ("db1", "u1", True),
        ("db1", "u9", False),  # another guest of that name
        ("renamed", "u1", True),
        ("db2", "u2", True),
        ("web", "u3", False),
    ],
)
def test_a_guest_is_found_by_its_name_or_its_uuid(name: str, uuid: str, is_tracked: bool) -> None:
    assert listed(LIST, name, uuid) is (Listed.TRACKED if is_tracked else Listed.NOT_TRACKED)


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"guests": 3}', b"\xff\x00", b"[]"])
def test_a_list_that_cannot_be_read_is_no_list(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "tracked-guests.json"
    if content is not None:
        file.write_bytes(content)
    assert listed(read_list(file), "db1", "u1") is Listed.NO_LIST


@pytest.mark.parametrize(
    ("line", "descriptor", "facts"),
    [
        ("qemu -device scsi-hd", None, QemuFacts(False, False, False)),
        ("qemu -device scsi-block,drive=d", "socket:[1]", QemuFacts(True, False, False)),
        ('qemu -incoming defer -device {"driver":"scsi-block"}', "/dev/null", QemuFacts(True, True, False)),
        ("qemu -incoming defer -device scsi-block", "anon_inode:[userfaultfd]", QemuFacts(True, True, True)),
        ("qemu -name x-incoming", "anon_inode:[userfaultfd]", QemuFacts(False, False, False)),
    ],
)
def test_the_kernel_says_what_a_qemu_is(
    tmp_path: Path, line: str, descriptor: str | None, facts: QemuFacts
) -> None:
    process = tmp_path / "7"
    (process / "fd").mkdir(parents=True)
    (process / "cmdline").write_bytes(line.replace(" ", "\0").encode() + b"\0")
    if descriptor is not None:
        (process / "fd" / "3").symlink_to(descriptor)
    assert facts_of(7, tmp_path) == facts


def test_what_cannot_be_seen_may_have_a_reservation(tmp_path: Path) -> None:
    assert facts_of(8, tmp_path) == QemuFacts(passes=True, incoming=False, post_copy=False)
