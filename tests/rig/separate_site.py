"""A site on separate hosts: a SAN with LUNs, and hosts whose agents hand a guest over by mutual TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.api.client import AgentClient, AgentRefused
from holdover.config.agent_file import export_iqn
from tests.rig.hosts import Program, SeparateHost, SeparateHosts, separate_hosts, until

GUEST = "db1"
SAN = "san"
SOCKET = "/run/holdover/api.sock"
SAN_IQN = "iqn.2026-11.org.example:san"
_API = 7411
_CONTROL = "/run/holdover/san.sock"
_FIRST_PORT = 3261
EXPORT = f"127.0.0.1:{_FIRST_PORT}"
"""The export of the first guest, on each host."""
GUEST_IQN = export_iqn(GUEST)
MONITOR = "/run/{name}.qmp"
"""Where an agent finds the monitor of a guest's QEMU."""
_LIMITS = "[limits]\nconnect = 5\nstep = 10\ndrain = 5\npeer = 5\ngive_up = 2\nrecheck = 0.5\n"


class SeparateSite:
    """The hosts of one test, with the SAN and the agents that run on them.

    Attributes:
        hosts: All hosts.
        names: Those with an agent.
        guests: The guests, each with the host on which it runs first.
        operators: Operators, of whose certificates each host has a copy; set them before `begin`.
        migrate_pr: What the agents' files say of each disk, "on" or "off"; set it before `begin`.
        second_address: A second address of the SAN, by which the agents' files name every other LUN; empty if
            there is none. Set it before `begin`.
    """

    def __init__(
        self, hosts: SeparateHosts, names: Sequence[str], luns: int, guests: Mapping[str, str] | None = None
    ) -> None:
        self.hosts = hosts
        self.names = tuple(names)
        self.guests = dict(guests or {GUEST: names[0]})
        self.agents: dict[str, Program] = {}
        self._luns = luns
        self.operators: tuple[str, ...] = ()
        self.migrate_pr = "on"
        self.second_address = ""

    def __getitem__(self, name: str) -> SeparateHost:
        return self.hosts[name]

    def begin(self, initiators: dict[str, str] | None = None, sections: str = "", settings: str = "") -> None:
        """Start the SAN and all agents.

        ``initiators`` are initiator names other than the hosts' own, ``sections`` more sections of all
        agents' files, ``settings`` more keys before the first section.
        """
        self.start_san()
        self._make_certificates()
        for name in self.names:
            own = f"iqn.2026-11.org.example:{name}"
            self._configure(name, (initiators or {}).get(name, own), sections, settings)
            self.start_agent(name)

    def start_agent(self, name: str, **environment: str) -> None:
        """Start the agent of a host, and wait until it can be asked."""
        host = self[name]
        arguments = ("agent", "--config", "/etc/holdover/agent.toml")
        agent = self.agents[name] = host.start(*arguments, environment=environment)
        until(lambda: not agent.running or host.listens(SOCKET), f"{name}: the agent cannot be asked")
        assert agent.running, agent.output()

    def start_san(self) -> None:
        """Start the target; it has the LUNs and the registrations that it had when it was killed."""
        san = self[SAN]
        arguments = ["target", "--listen", f"{san.address}:3260", "--iqn", SAN_IQN, "--control", _CONTROL]
        if self.second_address:
            san.run("ip", "address", "replace", f"{self.second_address}/24", "dev", "eth0")
            arguments += ["--listen", f"{self.second_address}:3260"]
        for lun in range(self._luns):
            arguments += ["--lun", f"file=/var/lib/holdover/lun{lun},size=16M"]
        target = self.target = san.start(*arguments)
        until(lambda: not target.running or san.listens(f"{san.address}:3260"), "the SAN does not listen")
        assert target.running, target.output()

    def _make_certificates(self) -> None:
        """Each host gets its own key and certificate, those of operators, and the authority's certificate."""
        san = self[SAN]
        san.must("ca", "init", "/var/lib/holdover/ca")
        for name in (*self.names, *self.operators):
            san.must("ca", "issue", name, "--ca", "/var/lib/holdover/ca")
        for name in self.names:
            owners = (name, *self.operators)
            for file in (*(f"{each}.{kind}" for each in owners for kind in ("crt", "key")), "ca.crt"):
                copy = self[name].etc / file
                copy.write_bytes((san.var / "ca" / file).read_bytes())
                copy.chmod(0o600)

    def _configure(self, name: str, initiator: str, sections: str, settings: str) -> None:
        host = self[name]
        peers = "".join(
            f'[[peer]]\nname = "{peer}"\napi = "{peer}:{_API}"\n' for peer in self.names if peer != name
        )
        (host.etc / "agent.toml").write_text(
            f'name = "{name}"\ninitiator = "{initiator}"\n{settings}'
            f'[api]\nlisten = ["{host.address}:{_API}", "unix:{SOCKET}"]\n'
            f'certificate = "/etc/holdover/{name}.crt"\nkey = "/etc/holdover/{name}.key"\n'
            f'ca = "/etc/holdover/ca.crt"\noperators = {json.dumps(self.operators)}\n{peers}'
            f'[qmp]\nsocket = "{MONITOR}"\n'
            f'[journal]\nfile = "/var/lib/holdover/journal"\n{_LIMITS}'
            f"{''.join(self._section(guest, name) for guest in self.guests)}{sections}",
            encoding="utf-8",
        )

    def _section(self, guest: str, host: str) -> str:
        devices = [
            f"scsi-block,id=disk{lun},drive=iscsi://{self._address_of(lun)}/{SAN_IQN}/{lun},"
            f"migrate-pr={self.migrate_pr}"
            for lun in self.luns_of(guest)
        ]
        return (
            f'[[guest]]\nname = "{guest}"\nmachine = "pc"\nexport = "{self.export(guest)}"\n'
            f"incoming = {str(host != self.guests[guest]).lower()}\ndevices = {json.dumps(devices)}\n"
        )

    def _address_of(self, lun: int) -> str:
        return self.second_address if self.second_address and lun % 2 else SAN

    def export(self, guest: str = GUEST) -> str:
        """The address of a guest's export, on each host."""
        return f"127.0.0.1:{_FIRST_PORT + list(self.guests).index(guest)}"

    def luns_of(self, guest: str) -> tuple[int, ...]:
        """A guest's LUNs: all of them if it is the only guest, otherwise one for each guest."""
        if len(self.guests) == 1:
            return tuple(range(self._luns))
        return (list(self.guests).index(guest),)

    # -- what is asked --------------------------------------------------------------------------------

    def guest(self, name: str, action: str, *options: str, lun: int = 0, guest: str = GUEST) -> None:
        """A guest, on host ``name``, changes its reservations: `holdover pr ACTION` by its export.

        ``lun`` is the number of the LUN at the export.
        """
        secret = ChapSecrets(self[name].var).file(guest).read_text(encoding="ascii")
        url = f"iscsi://{guest}%{secret}@{self.export(guest)}/{export_iqn(guest)}/{lun}"
        self[name].must("pr", action, url, *options, "--initiator", f"{SAN_IQN}:{guest}")

    def handover(self, name: str, action: str, *options: str) -> Any:
        """`holdover handover ACTION` on a host; it has to succeed."""
        return self[name].json("handover", action, GUEST, "--at", f"unix:{SOCKET}", *options)

    def is_over(self, name: str) -> bool:
        """Whether the guest's newest handover is over on a host, or there was none."""

        async def ask() -> bool:
            async with AgentClient(f"unix:{self[name].inside(SOCKET)}") as client:
                try:
                    return not (await client.handover(GUEST)).open
                except AgentRefused:
                    return True

        return asyncio.run(ask())

    def fault(self, fault: str) -> None:
        """Let the SAN fail in this way from now on (`holdover target-ctl add`)."""
        self[SAN].must("target-ctl", _CONTROL, "add", fault)

    def no_faults(self) -> None:
        """Let the SAN work again."""
        self[SAN].must("target-ctl", _CONTROL, "clear")

    @property
    def lun_url(self) -> str:
        """The first LUN, as any host reaches it."""
        return self.url_of(0)

    def url_of(self, lun: int) -> str:
        """A LUN, as any host reaches it."""
        return f"iscsi://{self[SAN].address}/{SAN_IQN}/{lun}"

    def registrants(self, lun: int = 0) -> dict[str, tuple[int, bool]]:
        """Who is registered on a LUN: initiator name -> key, and whether it holds the reservation."""
        status = self[SAN].json("pr", "status", self.url_of(lun))
        return {
            each["initiator"].partition(",")[0]: (int(each["key"], 16), each["holder"])
            for each in status["registrants"]
        }

    def where(self, hosts: list[str]) -> str:
        """In words: the guest runs on ``hosts``, and what the first LUN has on record."""
        lines = [f"{GUEST} runs on {', '.join(hosts)}. Registered on the LUN:"]
        for initiator, (key, holder) in self.registrants().items():
            lines.append(f"  {initiator}  key {key:#x}{'  holds the reservation' if holder else ''}")
        return "\n".join(lines)


@contextlib.contextmanager
def separate_site(
    folder: Path, *names: str, luns: int = 1, guests: Mapping[str, str] | None = None
) -> Iterator[SeparateSite]:
    """A SAN and hosts with these names, nothing started on them yet; shut down at the end.

    ``guests`` are the guests with their first hosts; without it there is one guest, on the first host.
    """
    with separate_hosts(folder, SAN, *names) as hosts:
        yield SeparateSite(hosts, names, luns, guests)
