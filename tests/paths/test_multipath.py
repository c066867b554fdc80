from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdover.paths import multipath
from holdover.paths.multipath import carry_out_multipath, nexuses_of
from holdover.paths.multipath_command import Registration
from holdover.paths.multipath_map import MultipathMap, MultipathPath
from holdover.paths.path import AnswerLost, PathError
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.reservation_out import in_command, out_command
from holdover.scsi.status import Status
from tests.helper.serving import open_descriptors
from tests.lun.support import initiator, make_unit

DEVICE = os.makedev(253, 0)
REGISTER, CLEAR = OutServiceAction.REGISTER, OutServiceAction.CLEAR
READ_KEYS = in_command(InServiceAction.READ_KEYS)
K, L = 0xA, 0xB
NEXUSES = {name: ITNexus(initiator(name)) for name in ("sda", "sdb")}


class FakeDaemon:
    """A multipathd that keeps what it is told, for every connection."""

    def __init__(self) -> None:
        self.ready = frozenset(NEXUSES)
        self.kept: Registration | None = None
        self.told: list[Registration | None] = []
        self.problem: PathError | None = None
        self.open = 0

    def __call__(self) -> FakeDaemon:
        self.open += 1
        return self

    def usable(self) -> frozenset[str]:
        if self.problem is not None:
            raise self.problem
        return self.ready

    def registration(self, name: str) -> Registration | None:
        assert name == "mpatha"
        return self.kept

    def register(self, name: str, registration: Registration | None) -> None:
        assert name == "mpatha"
        self.kept = registration
        self.told.append(registration)

    def close(self) -> None:
        self.open -= 1


class Host:
    """A multipath device over two disks, which are ordinary files, of a logical unit in memory."""

    def __init__(self, folder: Path) -> None:
        self.unit = make_unit()
        self.daemon = FakeDaemon()
        self.running = {"sda": True, "sdb": True}
        self.folder = folder
        self.lost = False
        self.before: Callable[[], None] = lambda: None
        for name in NEXUSES:
            (folder / name).touch()

    def read_map(self, device: int) -> MultipathMap:
        assert device == DEVICE
        return MultipathMap(
            "mpatha", tuple(MultipathPath(name, 0, state) for name, state in self.running.items())
        )

    def send(self, descriptor: int, command: Command, name: str) -> Response:
        disk = name.removeprefix("mpatha: ")
        assert os.path.samestat(os.fstat(descriptor), (self.folder / disk).stat())
        self.before()
        if self.lost:
            raise AnswerLost(name, "gone")
        return self.unit.execute(NEXUSES[disk], command)

    def run(self, command: Command) -> Response:
        return carry_out_multipath(DEVICE, command, self.send)

    def keys(self) -> list[int]:
        return [self.unit.state.key_of(each) for each in NEXUSES.values()]


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    found = Host(tmp_path)
    monkeypatch.setattr(multipath, "_DEV", tmp_path)
    monkeypatch.setattr(multipath, "read_map", found.read_map)
    monkeypatch.setattr(multipath, "MultipathDaemon", found.daemon)
    return found


def test_multipathd_knows_the_key_before_the_paths_do(host: Host) -> None:
    kept: list[Registration | None] = []
    host.before = lambda: kept.append(host.daemon.kept)
    assert host.run(out_command(REGISTER, 0, K, aptpl=True)).good
    assert kept == [Registration(K, True)] * 2
    assert host.keys() == [K, K]
    assert host.run(out_command(REGISTER, K, K, aptpl=True)).good
    assert len(host.daemon.told) == 1, "it is told what is new alone"
    assert host.run(out_command(REGISTER, K, L)).good
    assert host.daemon.kept == Registration(L, False)
    kept.clear()
    assert host.run(out_command(REGISTER, L, 0)).good
    assert kept == [None, None]


def test_clear_ends_it(host: Host) -> None:
    assert host.run(out_command(REGISTER, 0, K)).good
    assert host.run(out_command(CLEAR, K)).good
    assert host.daemon.kept is None


@pytest.mark.parametrize("new", [L, 0])
def test_what_the_logical_unit_refuses_is_taken_back(host: Host, new: int) -> None:
    assert host.run(out_command(REGISTER, 0, K)).good
    assert host.run(out_command(REGISTER, L, new)).status is Status.RESERVATION_CONFLICT
    assert host.daemon.told[-2:] == [Registration(L, False) if new else None, Registration(K, False)]


def test_in_doubt_multipathd_keeps_the_new_key(host: Host) -> None:
    host.lost = True
    with pytest.raises(AnswerLost):
        host.run(out_command(REGISTER, 0, K))
    assert host.daemon.kept == Registration(K, False)


def test_a_command_that_was_not_sent_is_taken_back(host: Host) -> None:
    for name in NEXUSES:
        (host.folder / name).unlink()
    with pytest.raises(PathError, match="mpatha: sda: No such file or directory"):
        host.run(out_command(REGISTER, 0, K))
    assert host.daemon.kept is None


@pytest.mark.parametrize("by", ["multipathd", "the kernel"])
def test_a_path_that_is_down_is_left_out(host: Host, by: str) -> None:
    if by == "multipathd":
        host.daemon.ready = frozenset({"sdb"})
    else:
        host.running["sda"] = False
    assert host.run(out_command(REGISTER, 0, K)).good
    assert host.keys() == [0, K]
    assert host.daemon.kept == Registration(K, False), "it will register the other one"
    host.daemon.ready = frozenset()
    with pytest.raises(PathError, match=r"mpatha: none of its paths can be used \(sda, sdb\)"):
        host.run(READ_KEYS)


def test_questions_do_without_multipathd_and_reservations_do_not(host: Host) -> None:
    host.daemon.problem = PathError("multipathd", "install it")
    assert host.run(READ_KEYS).good
    for action in (REGISTER, OutServiceAction.RESERVE):
        with pytest.raises(PathError, match="mpatha: multipathd: install it"):
            host.run(out_command(action, 0, K, type=ReservationType.WRITE_EXCLUSIVE))
    assert host.keys() == [0, 0]


def test_a_disk_whose_name_leads_elsewhere_is_not_used(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = MultipathMap("mpatha", (MultipathPath("sda", os.makedev(8, 0), running=True),))
    monkeypatch.setattr(multipath, "read_map", lambda _: elsewhere)
    with pytest.raises(PathError, match="sda: it is another disk by now"):
        host.run(READ_KEYS)


def test_nothing_stays_open(host: Host) -> None:
    before = open_descriptors()
    host.run(out_command(REGISTER, 0, K))
    host.lost = True
    with pytest.raises(AnswerLost):
        host.run(READ_KEYS)
    assert host.daemon.open == 0
    assert open_descriptors() == before


def test_as_many_nexuses_as_paths(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = host.folder / "sda"
    assert nexuses_of(disk) == 1
    assert nexuses_of(host.folder / "nothing") == 1
    monkeypatch.setattr(multipath, "is_multipath", lambda _: True)
    monkeypatch.setattr(multipath, "read_map", lambda _: host.read_map(DEVICE))
    assert nexuses_of(disk) == 2
