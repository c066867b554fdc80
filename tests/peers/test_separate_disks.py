"""A disk comes and goes while the guest runs, by QEMU's own hot-plug, and moves with the guest in between."""

from __future__ import annotations

import contextlib
import signal
from functools import partial
from pathlib import Path

import pytest

from holdover.config.agent_file import export_iqn
from holdover.qemu.monitor import QemuError
from tests.rig.hosts import until
from tests.rig.separate_guest import SeparateGuest
from tests.rig.separate_site import EXPORT, GUEST, SeparateSite, separate_site

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra"),
    pytest.mark.xdist_group("separate-hosts"),
    pytest.mark.long,
]

A, B = "host-a", "host-b"
IQN = "iqn.2026-11.org.example:"
FIRST, SECOND = 0xABC, 0xDEF
DEVICE = "scsi-block,id=disk1,drive={url},migrate-pr=on"
URL = "iscsi://san/iqn.2026-11.org.example:san/1"
"""By the name that the agents' files have: by its address it would be a second session of the guest."""
ADDRESS = {"bus": "scsi.0", "scsi-id": 1, "lun": 0}


def blockdev() -> dict[str, object]:
    """The second disk, as QEMU opens it at the export of its host."""
    return {
        "node-name": "d1",
        "driver": "iscsi",
        "transport": "tcp",
        "portal": EXPORT,
        "target": export_iqn(GUEST),
        "lun": 1,
        "user": GUEST,
        "password-secret": "chap",
        "initiator-name": f"{IQN}{GUEST}",
    }


def plug(guest: SeparateGuest, host: str) -> None:
    guest.site[host].must("guest", "attach-disk", GUEST, DEVICE.format(url=URL), "--number", "1")
    if guest.state(host) != "none":
        plug_into_qemu(guest, host)


def unplug(guest: SeparateGuest, host: str) -> None:
    """Take the disk away from the QEMU of a host; it ends when the guest's bus has let go of it."""
    guest.tell(host, "device_del", {"id": "disk1"})

    def gone() -> bool:
        with contextlib.suppress(QemuError):
            guest.tell(host, "blockdev-del", {"node-name": "d1"})
            return True
        return False

    until(gone, "QEMU keeps the disk")


def held(site: SeparateSite, name: str) -> bool:
    return (site.registrants(0), site.registrants(1)) == (
        {f"{IQN}{name}": (FIRST, True)},
        {f"{IQN}{name}": (SECOND, True)},
    )


def plug_into_qemu(guest: SeparateGuest, host: str) -> None:
    guest.tell(host, "blockdev-add", blockdev())
    guest.tell(host, "device_add", {"driver": "scsi-block", "drive": "d1", "id": "disk1"} | ADDRESS)


def reload(site: SeparateSite, host: str, *, with_second: bool) -> None:
    """Write the agent's file with one disk or with both, and have the agent read it again; it has done so."""
    file = site[host].etc / "agent.toml"
    second = f', "{DEVICE.format(url=URL)}"'
    text = file.read_text(encoding="utf-8").replace(second, "")
    end = text.index("]", text.index("devices = ["))
    file.write_text(f"{text[:end]}{second if with_second else ''}{text[end:]}", encoding="utf-8")
    site.agents[host].send(signal.SIGHUP)


def numbers(site: SeparateSite, host: str) -> list[int]:
    (guest,) = site[host].json("guest", "show", GUEST)
    return [device["lun"] for device in guest["devices"]]


def test_a_disk_that_comes_and_goes_by_the_agents_file_moves_with_the_guest(tmp_path: Path) -> None:
    with separate_site(tmp_path, A, B, luns=2) as site:
        site.begin()
        for host in (A, B):
            reload(site, host, with_second=False)
            until(partial(has_numbers, site, host, [0]), f"{host} keeps the disk that its file has not")
        guest = SeparateGuest(site)
        guest.start(A)
        site.guest(A, "register", "--new-key", hex(FIRST), "--aptpl")
        site.guest(A, "reserve", "--key", hex(FIRST), "--type", "5")
        for host in (A, B):
            reload(site, host, with_second=True)
            until(partial(has_numbers, site, host, [0, 1]), f"{host} does not attach the disk of its file")
        plug_into_qemu(guest, A)
        site.guest(A, "register", "--new-key", hex(SECOND), "--aptpl", lun=1)
        site.guest(A, "reserve", "--key", hex(SECOND), "--type", "1", lun=1)
        guest.start(B, "defer")
        plug_into_qemu(guest, B)
        moved = guest.migrate(A, B)
        assert moved.returncode == 0, moved.stdout + moved.stderr
        until(lambda: held(site, B), "the reservations are not on host-b alone")
        assert guest.running_on() == [B]
        guest.qemus[A].kill()
        # the guest holds its reservation: the disk stays until the guest gives it up
        unplug(guest, B)
        reload(site, B, with_second=False)
        until(lambda: "detach-disk db1 1 --release" in site.agents[B].output(), "nothing is said of the disk")
        assert held(site, B)
        assert numbers(site, B) == [0, 1]
        site.guest(B, "register", "--key", hex(SECOND), "--new-key", "0", lun=1)
        for host in (B, A):
            reload(site, host, with_second=False)
            until(partial(has_numbers, site, host, [0]), f"{host} keeps the disk that its file has not")
        assert site.registrants(1) == {}
        guest.start(A, "defer")
        back = guest.migrate(B, A)
        assert back.returncode == 0, back.stdout + back.stderr
        until(lambda: site.registrants(0) == {f"{IQN}{A}": (FIRST, True)}, "the reservation is not home")
        assert guest.running_on() == [A]


def has_numbers(site: SeparateSite, host: str, wanted: list[int]) -> bool:
    return numbers(site, host) == wanted


def test_a_disk_that_is_plugged_in_moves_with_the_guest_and_goes(tmp_path: Path) -> None:
    with separate_site(tmp_path, A, B, luns=2) as site:
        site.begin()
        # both are in the agents' files; the guest begins with one
        for host in (A, B):
            site[host].must("guest", "detach-disk", GUEST, "1")
        guest = SeparateGuest(site)
        guest.start(A)
        site.guest(A, "register", "--new-key", hex(FIRST), "--aptpl")
        site.guest(A, "reserve", "--key", hex(FIRST), "--type", "5")
        plug(guest, A)
        plug(guest, B)
        site.guest(A, "register", "--new-key", hex(SECOND), "--aptpl", lun=1)
        site.guest(A, "reserve", "--key", hex(SECOND), "--type", "1", lun=1)
        # a restart of the agent keeps the disk
        site.agents[A].kill()
        site.start_agent(A)
        guest.start(B, "defer")
        plug_into_qemu(guest, B)
        moved = guest.migrate(A, B)
        assert moved.returncode == 0, moved.stdout + moved.stderr
        until(lambda: held(site, B), "the reservations are not on host-b alone")
        assert guest.running_on() == [B]
        guest.qemus[A].kill()
        unplug(guest, B)
        kept = site[B].holdover("guest", "detach-disk", GUEST, "1")
        assert kept.returncode == 1
        assert "--release" in kept.stderr
        assert held(site, B)
        for host in (B, A):
            site[host].must("guest", "detach-disk", GUEST, "1", "--release")
        assert site.registrants(1) == {}
        assert guest.running_on() == [B]
        # the guest goes home with the disk that it has left
        guest.start(A, "defer")
        back = guest.migrate(B, A)
        assert back.returncode == 0, back.stdout + back.stderr
        until(lambda: site.registrants(0) == {f"{IQN}{A}": (FIRST, True)}, "the reservation is not home")
        assert guest.running_on() == [A]
