"""A guest in QEMUs on separate hosts: its firmware alone is guest enough for a migration.

Each QEMU has two monitors: that of the host's agent, and one for the test, which looks where the guest runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Mapping
from functools import partial
from typing import Any

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.api.client import AgentClient, AgentError
from holdover.api.migration_documents import MigrationState
from holdover.config.agent_file import export_iqn
from holdover.qemu.monitor import QemuError, QemuMonitor
from tests.rig.hosts import Program, until
from tests.rig.separate_site import GUEST, MONITOR, SOCKET, SeparateSite

_QEMU = "qemu-system-x86_64"
_HANG = 600.0


class SeparateGuest:
    """The QEMUs of a guest on the hosts of a site.

    Attributes:
        name: The guest's name.
    """

    def __init__(self, site: SeparateSite, name: str = GUEST) -> None:
        self.site = site
        self.name = name
        self._test_monitor = f"/run/{name}.test"
        self.qemus: dict[str, Program] = {}

    def start(self, name: str, incoming: str | None = None, *options: str) -> None:
        """Start a QEMU on a host; ``incoming``: it waits for the guest."""
        host = self.site[name]
        monitor = MONITOR.format(name=self.name)
        secret = f"/var/lib/holdover/{ChapSecrets(host.var).file(self.name).relative_to(host.var)}"
        arguments = [_QEMU, "-name", self.name, "-machine", "pc", "-accel", "tcg", "-m", "16", "-nodefaults"]
        arguments += ["-no-user-config", "-display", "none", "-device", "virtio-scsi-pci"]
        arguments += ["-object", f"secret,id=chap,file={secret}"]
        arguments += [
            "-blockdev",
            f"driver=iscsi,transport=tcp,portal={self.site.export(self.name)},target={export_iqn(self.name)},lun=0,user={self.name},"
            f"password-secret=chap,initiator-name=iqn.2026-11.org.example:{self.name},node-name=d0",
        ]
        arguments += ["-device", "scsi-block,drive=d0"]
        for path in (monitor, self._test_monitor):
            host.inside(path).unlink(missing_ok=True)
            arguments += ["-qmp", f"unix:{path},server=on,wait=off"]
        if incoming is not None:
            arguments += ["-incoming", incoming]
        qemu = self.qemus[name] = host.spawn(*arguments, *options)
        until(lambda: not qemu.running or host.listens(self._test_monitor), f"{name}: QEMU does not start")
        assert qemu.running, qemu.output()
        # it listens before it has opened its disk, and answers when it has
        self.tell(name, "query-status")

    def rest(self) -> tuple[str, str]:
        """The host on which the guest runs, and the other one, where a fresh QEMU waits for it.

        A guest whose QEMU has ended is started on the host that has its reservation. What the last test has
        left to do is done: a host that still withdraws refuses the next handover.
        """
        for name in self.site.names:
            until(partial(self.site.is_over, name), f"the handover is not over on {name}")
        first, second = self.site.names
        running = self.running_on()
        here = running[0] if running else next(n for n in (first, second) if self._holds(n))
        there = second if here == first else first
        if not running:
            self.start(here)
        if there in self.qemus and self.qemus[there].running:
            self.qemus[there].kill()
        self.start(there, "defer")
        return here, there

    def _holds(self, name: str) -> bool:
        return any(initiator.endswith(f":{name}") for initiator in self.site.registrants())

    def tell(self, name: str, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """One command to the QEMU of a host."""

        async def ask() -> object:
            async with await QemuMonitor.connect(
                self.site[name].inside(self._test_monitor), name, timeout=_HANG
            ) as qemu:
                return await qemu.execute(command, arguments)

        return asyncio.run(ask())

    def slow_down(self, name: str, rate: int = 20_000) -> None:
        """Let the memory of the guest of a host be copied so slowly that the copy lasts for minutes."""
        self.tell(name, "migrate-set-parameters", {"max-bandwidth": rate})

    def speed_up(self, name: str) -> None:
        """End what `slow_down` does."""
        self.tell(name, "migrate-set-parameters", {"max-bandwidth": 1 << 30})

    def state(self, name: str) -> str:
        """The run state of the QEMU of a host; "none" if there is none."""
        qemu = self.qemus.get(name)
        if qemu is None or not qemu.running:
            return "none"
        with contextlib.suppress(QemuError):
            return str(self.tell(name, "query-status")["status"])
        return "none"

    def running_on(self) -> list[str]:
        """The hosts whose QEMU runs the guest."""
        return [name for name in self.site.names if self.state(name) == "running"]

    def migrate(self, name: str, to: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`holdover migrate` typed on a host."""
        return self.site[name].holdover("migrate", self.name, "--to", to, *options, timeout=600)

    def begin(self, name: str, to: str, *options: str) -> Program:
        """`holdover migrate` on a host, which is not waited for."""
        return self.site[name].start("migrate", self.name, "--to", to, *options)

    def migration(self, name: str) -> MigrationState | None:
        """The newest migration of the guest from a host; None if it cannot be asked, or there is none."""

        async def ask() -> MigrationState | None:
            client = AgentClient(f"unix:{self.site[name].inside(SOCKET)}")
            try:
                return next(
                    (each for each in (await client.migrations()).migrations if each.guest == self.name), None
                )
            except AgentError:
                return None
            finally:
                await client.close()

        return asyncio.run(ask())

    def reaches(self, name: str, *phases: str) -> MigrationState:
        """Wait until the migration from a host is in one of these phases; returns its state."""

        def look() -> MigrationState | None:
            state = self.migration(name)
            return state if state is not None and state.phase in phases else None

        found = until(look, f"the migration from {name} does not reach {' or '.join(phases)}")
        assert found is not None
        return found
