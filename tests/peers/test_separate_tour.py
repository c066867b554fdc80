"""Real Linux guests go round three separate hosts: host-a, host-b, host-c and home, by `holdover migrate`.

The guest writes all the time and verifies what it has written; an intruder without a registration writes too,
and is refused; a third node has the guest's own key.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdover.demo.machines.console import Console
from holdover.demo.machines.image import READY, guest_image
from holdover.demo.messages import Connect, End, Report, decode_said, encode
from tests.rig.hosts import until
from tests.rig.separate_guest import SeparateGuest
from tests.rig.separate_site import GUEST, SAN, SeparateSite, separate_site

pytestmark = [
    pytest.mark.peer("qemu-system-x86", "qemu-block-extra", "busybox-static", "sg3-utils"),
    pytest.mark.xdist_group("separate-hosts"),
    pytest.mark.long,
]

HOSTS = ("host-a", "host-b", "host-c")
TOUR = ("host-b", "host-c", "host-a")
IQN = "iqn.2026-11.org.example:"
KEY = 0xABC
ALL_REGISTRANTS = 8
PERSIST = "sg_persist --out --no-inquiry"


class Tourist:
    """A guest, and the host on which it is."""

    def __init__(self, site: SeparateSite, name: str = GUEST, *, linux: bool = True) -> None:
        """``linux``: it boots Linux; otherwise it has its firmware alone."""
        self.site = site
        self._linux = linux
        self.guest = SeparateGuest(site, name)
        self.here = site.guests[name]
        (self.lun,) = site.luns_of(name)
        self._console = f"/run/{name}.console"

    def boot(self) -> None:
        """Start it on its host, and wait until its shell answers."""
        self.start(self.here)
        self.shell("true", boots=True)

    def start(self, name: str, incoming: str | None = None) -> None:
        if not self._linux:
            self.guest.start(name, incoming)
            return
        image = guest_image()
        self.site[name].inside(self._console).unlink(missing_ok=True)
        options = ["-m", "96", "-serial", f"unix:{self._console},server=on,wait=off", "-no-reboot"]
        options += ["-kernel", str(image.kernel), "-initrd", str(image.initrd)]
        options += ["-append", "console=ttyS0 quiet panic=-1 no_timer_check"]
        self.guest.start(name, incoming, *options)

    def shell(self, command: str, *, boots: bool = False) -> str:
        """A command in the guest, by its serial console; it has to succeed. Returns its output."""

        async def run() -> str:
            console = await Console.connect(self.site[self.here].inside(self._console))
            try:
                if boots:
                    await console.wait_for(READY, 600)
                result = await console.run(command, timeout=600)
                assert result.status == 0, f"{command}: {result.output}"
                return result.output
            finally:
                await console.close()

        return asyncio.run(run())

    def go(self, to: str) -> None:
        """`holdover migrate`, typed on the host that the guest leaves; its QEMU there ends afterwards."""
        self.start(to, "defer")
        done = self.guest.migrate(self.here, to)
        assert done.returncode == 0, done.stdout + done.stderr
        self.guest.qemus[self.here].kill()
        self.here = to

    def is_at_home(self, *, third: bool, all_registrants: bool) -> None:
        """It runs on its host alone, and its reservation is there alone, through a loss of power too."""
        held = {f"{IQN}{self.here}": (KEY, True)} | ({f"{IQN}third": (KEY, all_registrants)} if third else {})
        until(lambda: self.site.registrants(self.lun) == held, f"the reservation is not on {self.here} alone")
        assert self.guest.running_on() == [self.here]
        assert self.site[SAN].json("pr", "capabilities", self.site.url_of(self.lun))["ptpl_a"] is True

    def counts_no_error(self) -> None:
        """End what writes in the guest: it has written, and has met no error."""
        said = self.shell("workload stop").splitlines()
        counts = dict(line.split("=") for line in said if "=" in line)
        assert int(counts["writes"]) > 0
        assert (counts["write_errors"], counts["mismatches"], counts["read_errors"]) == ("0", "0", "0")


@pytest.fixture(scope="module")
def tourist(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tourist]:
    with separate_site(tmp_path_factory.mktemp("tour"), *HOSTS) as site:
        site.begin()
        made = Tourist(site)
        made.boot()
        yield made


@contextmanager
def intruder(site: SeparateSite, lun: int = 0) -> Iterator[list[Report]]:
    """Somebody writes without a registration; the report is in the list at the end."""
    reports: list[Report] = []
    with site[SAN].converse(sys.executable, "-m", "holdover.demo.intruder") as process:
        assert process.stdin is not None
        process.stdin.write(encode(Connect(site.url_of(lun))))
        process.stdin.flush()
        try:
            yield reports
        finally:
            said = _end(process)
        reports += [each for line in said.splitlines() if isinstance(each := decode_said(line), Report)]


def _end(process: subprocess.Popen[bytes]) -> bytes:
    said, _ = process.communicate(encode(End()), timeout=600)
    return said


@pytest.mark.parametrize("third", [False, True], ids=["own key", "shared key"])
@pytest.mark.parametrize("kind", [1, 5, ALL_REGISTRANTS])
def test_the_reservation_goes_round_with_the_guest(tourist: Tourist, kind: int, third: bool) -> None:
    site = tourist.site
    tourist.shell(f"{PERSIST} --register --param-sark={KEY:x} --param-aptpl /dev/sda")
    tourist.shell(f"{PERSIST} --reserve --param-rk={KEY:x} --prout-type={kind} /dev/sda")
    as_third = (site.lun_url, "--initiator", f"{IQN}third")
    if third:
        site[SAN].must("pr", "register", *as_third, "--new-key", hex(KEY), "--aptpl")
    tourist.shell("workload start /dev/sda")
    with intruder(site) as reports:
        for host in TOUR:
            tourist.go(host)
            tourist.is_at_home(third=third, all_registrants=kind == ALL_REGISTRANTS)
    (report,) = reports
    assert report.accepted == 0
    assert report.refused > 0
    tourist.counts_no_error()
    tourist.shell(f"{PERSIST} --release --param-rk={KEY:x} --prout-type={kind} /dev/sda")
    tourist.shell(f"{PERSIST} --register --param-rk={KEY:x} --param-sark=0 --param-aptpl /dev/sda")
    if third:
        site[SAN].must("pr", "register", *as_third, "--key", hex(KEY), "--new-key", "0")
    assert site.registrants() == {}


def test_release_and_forget_of_a_guest_that_is_shut_down(tmp_path: Path) -> None:
    with separate_site(tmp_path / "site", *HOSTS[:2]) as site:
        site.begin()
        guest = SeparateGuest(site)
        guest.start("host-a")
        site.guest("host-a", "register", "--new-key", hex(KEY), "--aptpl")
        site.guest("host-a", "reserve", "--key", hex(KEY), "--type", "5")
        runs = site["host-a"].holdover("guest", "release", GUEST, "--yes")
        assert runs.returncode == 1
        assert GUEST in runs.stderr
        assert site.registrants() == {f"{IQN}host-a": (KEY, True)}
        guest.qemus["host-a"].kill()
        until(
            lambda: site["host-a"].holdover("guest", "release", GUEST, "--yes").returncode == 0,
            "host-a does not notice that the guest has ended",
        )
        assert site.registrants() == {}
        # it is in the agent's file, so it cannot be forgotten
        kept = site["host-a"].holdover("guest", "forget", GUEST)
        assert kept.returncode == 1
        assert "file" in kept.stderr
