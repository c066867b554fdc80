"""The demonstration itself: what `make demo` shows, and that the harm is real."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.rig import vm_demo
from tests.rig.hosts import needs_separate_hosts
from tests.rig.packages import needs
from tests.rig.processes import Rig


class Sums(msgspec.Struct):
    guest_writes: int
    guest_write_errors: int
    intruder_writes_accepted: int
    intruder_writes_refused: int
    holder_before: str
    holder_after: str
    standstill_ms: float
    blocks_verified: int
    blocks_damaged: int


class Answer(msgspec.Struct):
    without: Sums
    with_: Sums = msgspec.field(name="with")
    html: str


def check(answer: Answer) -> None:
    for sums in (answer.without, answer.with_):
        assert sums.guest_writes > 0
        assert sums.intruder_writes_accepted == 0
        assert sums.intruder_writes_refused > 0
        assert sums.blocks_verified > 0
        assert sums.blocks_damaged == 0
        assert "host-a" in sums.holder_before
    assert answer.without.guest_write_errors > 0
    assert "host-a" in answer.without.holder_after
    assert answer.with_.guest_write_errors == 0
    assert "host-b" in answer.with_.holder_after


def test_with_migration_on_no_harm_is_done_and_with_it_off_it_is(rig: Rig, tmp_path: Path) -> None:
    done = rig.holdover("demo", "--json", "--html", "page.html", timeout=600)
    assert done.returncode == 0, done.stderr
    check(msgspec.json.decode(done.stdout, type=Answer))
    assert (tmp_path / "page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.long
def test_without_json_it_shows_a_timeline_and_a_table(rig: Rig) -> None:
    done = rig.holdover("demo", timeout=600)
    assert done.returncode == 0, done.stderr
    assert "guest's writes refused" in done.stdout
    assert "▒" in done.stdout
    assert "Timeline: " in done.stdout


@pytest.mark.long
@pytest.mark.xdist_group("qemu")
def test_the_same_with_a_real_guest(rig: Rig) -> None:
    needs("qemu-system-x86", "busybox-static", "sg3-utils")
    done = rig.holdover("demo", "--vm", "--json", timeout=600)
    assert done.returncode == 0, done.stderr
    check(msgspec.json.decode(done.stdout, type=Answer))


@pytest.mark.long
@pytest.mark.xdist_group("separate-hosts")
def test_a_real_guest_between_separate_hosts() -> None:
    needs("qemu-system-x86", "qemu-block-extra", "busybox-static", "sg3-utils")
    needs_separate_hosts()
    done = subprocess.run(
        [sys.executable, "-m", "tests.rig.vm_demo"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    harm, none = done.stdout.split("migrate-pr=on")
    assert "host-a  key 0xabc  holds the reservation" in harm.partition("After")[2]
    assert "host-b  key 0xabc  holds the reservation" in none.partition("After")[2]
    assert " writes done, 0 refused." in none


def test_without_root_it_says_why_the_hosts_are_not_separate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert vm_demo.reason_against_hosts() == "Separate hosts need root"
