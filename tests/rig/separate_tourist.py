"""A Linux guest that goes round separate hosts."""

from __future__ import annotations

from holdover.demo.machines.image import guest_image
from tests.rig.guest_commands import (
    WRITE_ON,
    counts_of,
    register,
    release,
    reserve,
    unregister,
    wrote_without_error,
)
from tests.rig.hosts import until
from tests.rig.separate_guest import SeparateGuest
from tests.rig.separate_pair import IQN, KEY, Pair
from tests.rig.separate_site import GUEST, SAN, SeparateSite
from tests.rig.serial_line import output_of


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
        return output_of(self.site[self.here].inside(self._console), command, boots=boots)

    def reserve(self, kind: int, *, third: bool) -> None:
        """It reserves its LUN and writes from now on; ``third``: a third node has its key."""
        self.register()
        self.shell(reserve(KEY, kind))
        if third:
            self.site[SAN].must("pr", "register", *self._as_third, "--new-key", hex(KEY), "--aptpl")
        self.shell(WRITE_ON)

    def register(self) -> None:
        self.shell(register(KEY))

    def leave(self, kind: int, *, third: bool) -> None:
        """It has met no error, and gives up its reservation; nobody is registered any more."""
        self.counts_no_error()
        self.shell(release(KEY, kind))
        self.shell(unregister(KEY))
        if third:
            self.site[SAN].must("pr", "register", *self._as_third, "--key", hex(KEY), "--new-key", "0")
        assert self.site.registrants(self.lun) == {}

    @property
    def _as_third(self) -> tuple[str, str, str]:
        return self.site.url_of(self.lun), "--initiator", f"{IQN}third"

    def go(self, to: str) -> None:
        """`holdover migrate`, typed on the host that the guest leaves; its QEMU there ends afterwards."""
        self.start(to, "defer")
        done = self.guest.migrate(self.here, to)
        assert done.returncode == 0, done.stdout + done.stderr
        self._has_gone(to)

    def _has_gone(self, to: str) -> None:
        self.guest.qemus[self.here].kill()
        self.here = to

    def go_though(self, victim: str, to: str, phase: str) -> None:
        """The same, and something dies when the migration is about to enter a phase.

        A guest that stays goes once more, and nothing dies.
        """
        self.start(to, "defer")
        pair = Pair(self.guest, self.here, to)
        how = "KILL" if victim == "source agent" else "STOP"
        pair.restart_agent(self.here, **{f"HOLDOVER_{how}_AT": f"migration-{phase}:1:before"})
        command = self.guest.begin(self.here, to)
        agent = self.site.agents[self.here]
        until(
            lambda: agent.stopped or not (agent.running and command.running), "the migration does not begin"
        )
        assert command.running or not agent.running, command.output()
        match victim:
            case "source agent":
                self.site.start_agent(self.here)
            case "destination agent":
                pair.restart_agent(to)
            case _:
                self.site.target.kill()
                self.site.start_san()
        if agent.running:
            agent.go_on()
        until(lambda: not command.running, "the command does not end")
        if pair.reaches("moved", "stayed").moved:
            self._has_gone(to)
        else:
            self.guest.qemus[to].kill()
            self.go(to)

    def is_at_home(self, *, third: bool, all_registrants: bool) -> None:
        """It runs on its host alone, and its reservation is there alone, through a loss of power too."""
        held = {f"{IQN}{self.here}": (KEY, True)} | ({f"{IQN}third": (KEY, all_registrants)} if third else {})
        until(lambda: self.site.registrants(self.lun) == held, f"the reservation is not on {self.here} alone")
        assert self.guest.running_on() == [self.here]
        assert self.site[SAN].json("pr", "capabilities", self.site.url_of(self.lun))["ptpl_a"] is True

    def counts(self, order: str = "stop") -> dict[str, str]:
        """What has been counted by what writes in the guest, which ends ("stop") or goes on ("report")."""
        return counts_of(self.shell(f"workload {order}"))

    def counts_no_error(self) -> None:
        """End what writes in the guest: it has written, and has met no error."""
        wrote_without_error(self.counts())
