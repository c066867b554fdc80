"""A site on separate hosts: a SAN with LUNs, and hosts whose agents hand a guest over by mutual TLS."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from holdover.agent.guests.chap_secrets import ChapSecrets
from tests.rig.hosts import Program, SeparateHost, SeparateHosts, separate_hosts, until

GUEST = "db1"
SAN = "san"
SOCKET = "/run/holdover/api.sock"
_IQN = "iqn.2026-11.org.example:san"
_API = 7411
_CONTROL = "/run/holdover/san.sock"
EXPORT = "127.0.0.1:3261"
MONITOR = "/run/{name}.qmp"
"""Where an agent finds the monitor of a guest's QEMU."""
GUEST_IQN = f"iqn.2026-11.org.holdover:guest.{GUEST}"
_LIMITS = "[limits]\nconnect = 5\nstep = 10\ndrain = 5\npeer = 5\ngive_up = 2\nrecheck = 0.5\n"


class SeparateSite:
    """The hosts of one test, with the SAN and the agents that run on them.

    Attributes:
        hosts: All hosts.
        names: Those with an agent; the guest runs on the first.
    """

    def __init__(self, hosts: SeparateHosts, names: Sequence[str], luns: int) -> None:
        self.hosts = hosts
        self.names = tuple(names)
        self.agents: dict[str, Program] = {}
        self._luns = luns

    def __getitem__(self, name: str) -> SeparateHost:
        return self.hosts[name]

    def begin(self, initiators: dict[str, str] | None = None, sections: str = "", settings: str = "") -> None:
        """Start the SAN and all agents.

        ``initiators`` are initiator names other than the hosts' own, ``sections`` more sections of all
        agents' files, ``settings`` more keys before the first section.
        """
        self._start_san()
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

    def _start_san(self) -> None:
        san = self[SAN]
        arguments = ["target", "--listen", f"{san.address}:3260", "--iqn", _IQN, "--control", _CONTROL]
        for lun in range(self._luns):
            arguments += ["--lun", f"file=/var/lib/holdover/lun{lun},size=16M"]
        target = san.start(*arguments)
        until(lambda: not target.running or san.listens(f"{san.address}:3260"), "the SAN does not listen")
        assert target.running, target.output()

    def _make_certificates(self) -> None:
        """Each host gets its own key and certificate, and the authority's certificate; nothing else."""
        san = self[SAN]
        san.must("ca", "init", "/var/lib/holdover/ca")
        for name in self.names:
            san.must("ca", "issue", name, "--ca", "/var/lib/holdover/ca")
            for file in (f"{name}.crt", f"{name}.key", "ca.crt"):
                copy = self[name].etc / file
                copy.write_bytes((san.var / "ca" / file).read_bytes())
                copy.chmod(0o600)

    def _configure(self, name: str, initiator: str, sections: str, settings: str) -> None:
        host = self[name]
        devices = [
            f"scsi-block,id=disk{lun},drive=iscsi://{SAN}/{_IQN}/{lun},migrate-pr=on"
            for lun in range(self._luns)
        ]
        peers = "".join(
            f'[[peer]]\nname = "{peer}"\napi = "{peer}:{_API}"\n' for peer in self.names if peer != name
        )
        (host.etc / "agent.toml").write_text(
            f'name = "{name}"\ninitiator = "{initiator}"\n{settings}'
            f'[api]\nlisten = ["{host.address}:{_API}", "unix:{SOCKET}"]\n'
            f'certificate = "/etc/holdover/{name}.crt"\nkey = "/etc/holdover/{name}.key"\n'
            f'ca = "/etc/holdover/ca.crt"\n{peers}'
            f'[qmp]\nsocket = "{MONITOR}"\n'
            f'[journal]\nfile = "/var/lib/holdover/journal"\n{_LIMITS}'
            f'[[guest]]\nname = "{GUEST}"\nmachine = "pc"\nexport = "{EXPORT}"\n'
            f"incoming = {str(name != self.names[0]).lower()}\ndevices = {json.dumps(devices)}\n{sections}",
            encoding="utf-8",
        )

    # -- what is asked --------------------------------------------------------------------------------

    def guest(self, name: str, action: str, *options: str, lun: int = 0) -> None:
        """The guest, on host ``name``, changes its reservations: `holdover pr ACTION` by its export."""
        secret = ChapSecrets(self[name].var).file(GUEST).read_text(encoding="ascii")
        url = f"iscsi://{GUEST}%{secret}@{EXPORT}/{GUEST_IQN}/{lun}"
        self[name].must("pr", action, url, *options, "--initiator", f"{_IQN}:{GUEST}")

    def handover(self, name: str, action: str, *options: str) -> Any:
        """`holdover handover ACTION` on a host; it has to succeed."""
        return self[name].json("handover", action, GUEST, "--at", f"unix:{SOCKET}", *options)

    def is_over(self, name: str) -> bool:
        """Whether the guest's newest handover is over on a host, or there was none."""
        done = self[name].holdover("handover", "status", GUEST, "--at", f"unix:{SOCKET}", "--json")
        return done.returncode == 1 or not json.loads(done.stdout)["open"]

    def fault(self, fault: str) -> None:
        """Let the SAN fail in this way from now on (`holdover target-ctl add`)."""
        self[SAN].must("target-ctl", _CONTROL, "add", fault)

    def no_faults(self) -> None:
        """Let the SAN work again."""
        self[SAN].must("target-ctl", _CONTROL, "clear")

    @property
    def lun_url(self) -> str:
        """The first LUN, as any host reaches it."""
        return f"iscsi://{self[SAN].address}/{_IQN}/0"

    def registrants(self, lun: int = 0) -> dict[str, tuple[int, bool]]:
        """Who is registered on a LUN: initiator name -> key, and whether it holds the reservation."""
        status = self[SAN].json("pr", "status", f"iscsi://{self[SAN].address}/{_IQN}/{lun}")
        return {
            each["initiator"].partition(",")[0]: (int(each["key"], 16), each["holder"])
            for each in status["registrants"]
        }


@contextlib.contextmanager
def separate_site(folder: Path, *names: str, luns: int = 1) -> Iterator[SeparateSite]:
    """A SAN and hosts with these names, nothing started on them yet; shut down at the end."""
    with separate_hosts(folder, SAN, *names) as hosts:
        yield SeparateSite(hosts, names, luns)
