from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from holdover.paths import multipath
from holdover.paths.multipath import carry_out_multipath, nexuses_of
from holdover.paths.multipath_command import DeviceRegistration
from holdover.paths.multipath_map import MultipathMap, MultipathPath
from holdover.paths.multipath_steps import InitiatorPorts
from holdover.scsi.cdbs.opcodes import InServiceAction, OutServiceAction, ReservationType
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.path import AnswerLost, PathError
from holdover.scsi.reservation.reservation_out import in_command, out_command
from holdover.scsi.reservation.transport_id import FcTransportID, IscsiTransportID
from holdover.scsi.status import Status
from tests.helper.serving import open_descriptors
from tests.lun.support import make_unit

DEVICE = os.makedev(253, 0)
REGISTER, CLEAR = OutServiceAction.REGISTER, OutServiceAction.CLEAR
READ_KEYS = in_command(InServiceAction.READ_KEYS)
K, L = 0xA, 0xB
NEXUSES = {
    disk: ITNexus(IscsiTransportID("iqn.2026-01.test:a", bytes([0x80, 0, 0, 0, 0, number])))
    for number, disk in enumerate(("sda", "sdb"))
}
"""Two sessions of one initiator."""


class FakeDaemon:
    """A multipathd that keeps what it is told, for every connection."""

    def __init__(self) -> None:
        self.ready = frozenset(NEXUSES)
        self.kept: DeviceRegistration | None = None
        self.watched = False
        self.told: list[DeviceRegistration | None] = []
        self.problem: PathError | None = None
        self.open = 0

    def __call__(self) -> FakeDaemon:
        self.open += 1
        return self

    def usable(self) -> frozenset[str]:
        if self.problem is not None:
            raise self.problem
        return self.ready

    def registration(self, name: str) -> DeviceRegistration | None:
        assert name == "mpatha"
        return self.kept if self.watched else None

    def keep(self, name: str, registration: DeviceRegistration | None) -> None:
        assert name == "mpatha"
        self.watched = False
        self.kept = registration
        self.told.append(registration)

    def watch(self, name: str) -> None:
        assert name == "mpatha"
        self.watched = True

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
            "mpatha", tuple(MultipathPath(name, 0, state, name) for name, state in self.running.items())
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
    monkeypatch.setattr(multipath, "_ports", InitiatorPorts())
    monkeypatch.setattr(multipath, "_DEV", tmp_path)
    monkeypatch.setattr(multipath, "read_map", found.read_map)
    monkeypatch.setattr(multipath, "MultipathDaemon", found.daemon)
    return found


def test_multipathd_keeps_the_key_before_the_paths_have_it_and_uses_it_afterwards(host: Host) -> None:
    kept: list[DeviceRegistration | None] = []

    def note() -> None:
        assert not host.daemon.watched
        kept.append(host.daemon.kept)

    host.before = note
    assert host.run(out_command(REGISTER, 0, K, aptpl=True)).good
    assert set(kept) == {DeviceRegistration(K, True)}
    assert host.keys() == [K, K]
    assert host.daemon.watched
    host.before = lambda: kept.append(host.daemon.kept)
    assert host.run(out_command(REGISTER, K, K, aptpl=True)).good
    assert len(host.daemon.told) == 1, "it is told what is new alone"
    assert host.run(out_command(REGISTER, K, L)).good
    assert host.daemon.kept == DeviceRegistration(L, False)
    kept.clear()
    assert host.run(out_command(REGISTER, L, 0)).good
    assert set(kept) == {None}


def test_clear_ends_it(host: Host) -> None:
    assert host.run(out_command(REGISTER, 0, K)).good
    assert host.run(out_command(CLEAR, K)).good
    assert host.daemon.kept is None


@pytest.mark.parametrize("new", [L, 0])
def test_what_the_logical_unit_refuses_is_taken_back(host: Host, new: int) -> None:
    assert host.run(out_command(REGISTER, 0, K)).good
    assert host.run(out_command(REGISTER, L, new)).status is Status.RESERVATION_CONFLICT
    assert host.daemon.told[-2:] == [
        DeviceRegistration(L, False) if new else None,
        DeviceRegistration(K, False),
    ]
    assert host.daemon.watched


def test_in_doubt_multipathd_keeps_the_new_key(host: Host) -> None:
    host.run(out_command(REGISTER, 0, L))
    host.lost = True
    with pytest.raises(AnswerLost):
        host.run(out_command(REGISTER, L, K))
    assert (host.daemon.kept, host.daemon.watched) == (DeviceRegistration(K, False), True)


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
    assert host.daemon.kept == DeviceRegistration(K, False), "it will register the other one"
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
    elsewhere = MultipathMap(
        "mpatha", (MultipathPath("sda", os.makedev(8, 0), running=True, initiator="sda"),)
    )
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


def test_a_path_that_comes_back_meanwhile_catches_up(host: Host) -> None:
    host.daemon.ready = frozenset({"sdb"})

    def come_back() -> None:
        host.daemon.ready = frozenset(NEXUSES)

    host.before = come_back
    assert host.run(out_command(REGISTER, 0, K)).good
    assert host.keys() == [K, K]
    host.daemon.ready = frozenset({"sda"})
    assert host.run(out_command(REGISTER, K, L)).good
    assert host.keys() == [L, L]
    host.daemon.ready = frozenset({"sda"})
    assert host.run(out_command(REGISTER, L, 0)).good
    assert host.keys() == [0, 0]


def test_paths_say_by_which_initiator_ports_a_command_was_carried_out(host: Host) -> None:
    assert host.run(out_command(REGISTER, 0, K)).carried == ("sda", "sdb")
    host.running["sda"] = False
    assert host.run(out_command(REGISTER, K, K)).carried == ("sdb",)


def test_an_array_that_keeps_one_registration_for_each_initiator_port(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four paths by two host adapters. No LUN of the kernel's is such an array."""
    adapters = {"sda": "host2", "sdb": "host2", "sdc": "host3", "sdd": "host3"}
    names = {"host2": NEXUSES["sda"], "host3": NEXUSES["sdb"]}
    for disk, adapter in adapters.items():
        (host.folder / disk).touch()
        monkeypatch.setitem(NEXUSES, disk, names[adapter])
    host.daemon.ready = frozenset(adapters)
    paths = tuple(MultipathPath(disk, 0, True, adapter) for disk, adapter in adapters.items())
    monkeypatch.setattr(multipath, "read_map", lambda _: MultipathMap("mpatha", paths))
    answer = host.run(out_command(REGISTER, 0, K))
    assert (answer.good, answer.carried) == (True, ("host2", "host2", "host3", "host3"))
    assert [each.key for each in host.unit.state.registrations] == [K, K]
    assert (host.daemon.kept, host.daemon.watched) == (DeviceRegistration(K, False), True)
    assert host.run(out_command(REGISTER, 0, K)).status is Status.RESERVATION_CONFLICT
    for old, new in ((K, L), (L, 0)):
        assert host.run(out_command(REGISTER, old, new)).good
        assert set(host.keys()) == {new}


def test_a_path_that_is_away_loses_its_registration_where_the_kernel_names_its_port(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [FcTransportID(bytes([0x10, 0, 0, 0, 0, 0, 0, number])) for number in (1, 2)]
    nexuses = {disk: ITNexus(name) for disk, name in zip(NEXUSES, names, strict=True)}

    def read_map(device: int) -> MultipathMap:
        paths = zip(host.running.items(), names, strict=True)
        return MultipathMap(
            "mpatha", tuple(MultipathPath(disk, 0, state, disk, name) for (disk, state), name in paths)
        )

    monkeypatch.setattr(multipath, "read_map", read_map)
    monkeypatch.setitem(NEXUSES, "sda", nexuses["sda"])
    monkeypatch.setitem(NEXUSES, "sdb", nexuses["sdb"])
    assert host.run(out_command(REGISTER, 0, K)).good
    assert host.run(out_command(OutServiceAction.RESERVE, K, type=ReservationType.WRITE_EXCLUSIVE)).good
    host.running["sda"] = False
    assert host.run(out_command(OutServiceAction.REGISTER_AND_IGNORE_EXISTING_KEY, 0, L)).good
    assert host.keys() == [0, L]
    assert host.unit.state.holds(nexuses["sdb"])


def test_as_many_nexuses_as_paths(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = host.folder / "sda"
    assert nexuses_of(disk) == 1
    assert nexuses_of(host.folder / "nothing") == 1
    monkeypatch.setattr(multipath, "is_multipath", lambda _: True)
    monkeypatch.setattr(multipath, "read_map", lambda _: host.read_map(DEVICE))
    assert nexuses_of(disk) == 2
