"""A domain of libvirt on two hosts, with an agent, a lock server and a libvirtd each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import CompletedProcess

from tests.rig.hosts import needs_separate_hosts, until
from tests.rig.packages import needs
from tests.rig.separate_libvirt import SeparateLibvirt, needs_libvirt
from tests.rig.separate_site import GUEST, separate_site

A, B = "host-a", "host-b"
KEY = 0xABC
IQN = "iqn.2026-11.org.example:"
SLOW_COMMIT = "latency=2s,action=PREEMPT,count=1"
"""libvirt waits for its answer for so long that a test can do something meanwhile."""
EVENTS, QUESTIONS = "libvirt's events", "questions alone"
"""Whether the agents subscribe to libvirt's events of QEMU, or only answer libvirt's questions."""


class Machine:
    """The domain on the site.

    Attributes:
        here: The host on which it is.
        there: The other one.
    """

    def __init__(self, libvirt: SeparateLibvirt, *, events: bool = False) -> None:
        """``events``: the agents must hear libvirt's events."""
        self.libvirt = libvirt
        self._events = events
        self.site = libvirt.site
        self.here, self.there = A, B
        self._pool = ThreadPoolExecutor(1)

    def start(self) -> None:
        """Start it afresh with a reservation of type 5."""
        self.libvirt.define(self.here)
        self.libvirt.must(self.here, "start", GUEST)
        self.site.guest(self.here, "register", "--new-key", hex(KEY), "--aptpl")
        self.site.guest(self.here, "reserve", "--key", hex(KEY), "--type", "5")

    def moves(self, *options: str) -> None:
        """It is migrated to the other host with its reservation."""
        done = self.libvirt.migrate(self.here, self.there, *options)
        assert done.returncode == 0, done.stderr
        self.here, self.there = self.there, self.here
        self.is_at_home()

    def migrate(self, *options: str) -> Future[CompletedProcess[str]]:
        """Begin `virsh migrate` to the other host; it may fail."""
        return self._pool.submit(self.libvirt.migrate, self.here, self.there, *options)

    def is_at_home(self) -> None:
        """It runs on its host alone, which holds its reservation alone."""
        held = {f"{IQN}{self.here}": (KEY, True)}
        until(lambda: self.site.registrants() == held, f"the reservation is not on {self.here} alone")
        until(lambda: self.libvirt.state(self.here) == "running", f"the guest does not run on {self.here}")
        assert self.libvirt.runs_on() == [self.here]

    def rests(self) -> None:
        """Nothing is under way: the SAN works, the agents hear what they are to hear, and it is at home."""
        self.site.no_faults()
        for name in self.site.names if self._events else ():
            until(partial(self.libvirt.hears_events, name), f"{name}: the agent hears no events")
        self.is_at_home()

    def says(self, host: str, text: str) -> Callable[[], bool]:
        """Whether the agent of a host has logged a text since now."""
        before = len(self.site.agents[host].output())
        return lambda: text in self.site.agents[host].output()[before:]

    def end(self) -> None:
        self._pool.shutdown(cancel_futures=True)


@contextmanager
def libvirt_site(
    folder: Path, root: Path | None = None, *, modular: Path | None = None, ways: str | None = None
) -> Iterator[Machine]:
    """A SAN, two hosts with an agent and a libvirtd each; the domain runs on the first. ``root``: a Debian
    whose libvirt and QEMU the hosts run. ``modular``: a folder with virtqemud and its like, which they run in
    place of libvirtd. ``ways``: what the agents must hear of libvirt."""
    needs_separate_hosts()
    needs_libvirt()
    if ways == EVENTS:
        needs("python3-libvirt")
    with separate_site(folder, A, B) as site:
        site.begin(sections='[libvirt]\nevents = ""\n' if ways == QUESTIONS else "[libvirt]\n")
        libvirt = SeparateLibvirt(site, root, modular)
        libvirt.begin()
        made = Machine(libvirt, events=ways == EVENTS)
        made.start()
        yield made
        made.end()
