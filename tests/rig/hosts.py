"""Several hosts on one machine that share a network and nothing else.

Each host has its own network, host name, processes, /run, /tmp, /etc/holdover and /var/lib/holdover. All
hosts hang on one bridge, and each resolves the names of all. Only what travels by network passes from one to
another: a Unix socket, a file or a loopback port of one host does not exist on another. A partition drops
every packet between two hosts.

A host with a Debian of its own boots it by systemd-nspawn: its services are systemd's, as on a real host.

The rig needs root and the packages iproute2, nftables and util-linux; systemd-container for hosts that boot.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.rig.packages import needs

T = TypeVar("T")

_NUMBERS = itertools.count()
"""Tells the networks of one process apart."""

_HANG = 600.0
"""Seconds after which something that should happen at once is taken to hang."""

_OWN = ("unshare", "--mount", "--uts", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private")
_KEEPER = """
set -eu
mount -t proc proc /proc
hostname "$NAME"
ip link set lo up
mkdir -p /etc/holdover /var/lib/holdover
mount --bind "$STATE/etc" /etc/holdover
mount --bind "$STATE/var" /var/lib/holdover
mount --bind "$STATE/hosts" /etc/hosts
mount -t tmpfs tmpfs /run
if [ "$OWN_TMP" = yes ]; then mount -t tmpfs tmpfs /tmp; fi
mkdir -m 755 /run/holdover  # as systemd makes it: RuntimeDirectory=
: >/run/.ready
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
"""
"""Process 1 of a host: it makes the host's own folders, and the kernel ends the host when it ends."""
_BOOTING = """
set -eu
mkdir -p "$STATE/root" "$STATE/upper" "$STATE/work"
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$STATE/upper,workdir=$STATE/work" "$STATE/root"
cp "$STATE/hosts" "$STATE/root/etc/hosts"
echo "$NAME" >"$STATE/root/etc/hostname"
exec systemd-nspawn --quiet --directory="$STATE/root" --boot --private-network --capability=all \\
  --hostname="$NAME" --resolv-conf=off --register=no --keep-unit
"""
"""The same for a host with a Debian of its own, a layer over one that hosts share: systemd is process 1."""


def needs_separate_hosts() -> None:
    """Skip the test that calls this where separate hosts cannot be made; say why."""
    needs("iproute2", "nftables", "util-linux")
    if os.geteuid() == 0:
        return
    reason = "separate hosts need root: their networks and mounts are made with unshare(1) and ip(8)"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


class SeparateHost:
    """One of the hosts.

    Attributes:
        name: The host's name, which every host resolves.
        address: Its IPv4 address.
    """

    def __init__(self, name: str, address: str, state: Path, root: Path | None = None) -> None:
        """``root``: a Debian that it runs, in place of this machine's own programs."""
        self.name = name
        self.address = address
        self._root = root
        self._state = state
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._programs: list[subprocess.Popen[bytes]] = []

    @property
    def has_own_root(self) -> bool:
        """Whether it runs a Debian of its own, and not this machine's programs."""
        return self._root is not None

    @property
    def etc(self) -> Path:
        """What the host sees as /etc/holdover."""
        return self.inside("/etc/holdover") if self._root else self._state / "etc"

    @property
    def var(self) -> Path:
        """What the host sees as /var/lib/holdover."""
        return self.inside("/var/lib/holdover") if self._root else self._state / "var"

    # -- its life -----------------------------------------------------------------------------------

    def boot(self) -> int:
        """Begin it; the number of its process 1."""
        variables = {"NAME": self.name, "STATE": str(self._state), "OWN_TMP": _own_tmp()}
        variables |= {"ROOT": str(self._root)} if self._root else {}
        self._keeper = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _BOOTING] if self._root else [*_OWN, "sh", "-c", _KEEPER],
            env=os.environ | variables,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        outer = self._keeper.pid
        self._pid = until(lambda: _first_of(_child(outer)), f"host {self.name} has no process 1")
        ready = (
            ("systemctl", "is-active", "multi-user.target") if self._root else ("test", "-e", "/run/.ready")
        )
        until(lambda: self.run(*ready).returncode == 0, f"host {self.name} is not ready")
        return self._pid

    def shut_down(self) -> None:
        """End it with everything that runs on it."""
        if self._keeper is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._keeper.wait(_HANG)
        for program in self._programs:
            program.wait(_HANG)

    # -- programs -----------------------------------------------------------------------------------

    def run(self, *arguments: str, timeout: float = _HANG) -> subprocess.CompletedProcess[str]:
        """Run a program on the host to its end."""
        return subprocess.run(
            self._entering(arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def holdover(self, *arguments: str, timeout: float = _HANG) -> subprocess.CompletedProcess[str]:
        """Run `holdover` on the host to its end; whether it succeeded is the caller's to look at."""
        return self.run(*self._holdover, *arguments, timeout=timeout)

    def must(self, *arguments: str, timeout: float = _HANG) -> str:
        """Run `holdover` on the host; it has to succeed. Returns what it printed."""
        done = self.holdover(*arguments, timeout=timeout)
        assert done.returncode == 0, (
            f"{self.name}: holdover {' '.join(arguments)}: exit status {done.returncode}\n"
            f"{done.stdout}{done.stderr}"
        )
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Run `holdover` with `--json` on the host; it has to succeed. Returns the document."""
        return json.loads(self.must(*arguments, "--json"))

    def start(self, *arguments: str, environment: Mapping[str, str] | None = None) -> Program:
        """Start `holdover` on the host; it runs until it is ended or the host is shut down."""
        return self._launch(arguments[0], [*self._holdover, *arguments], environment or {})

    def _launch(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Program:
        log = self._state / f"{len(self._programs)}-{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                self._entering(arguments),
                env=os.environ | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._programs.append(popen)
        return Program(self.name, popen, log)

    def spawn(self, *arguments: str) -> Program:
        """Start a program on the host; it runs until it is ended or the host is shut down."""
        return self._launch(Path(arguments[0]).name, arguments, {})

    def converse(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program on the host; its standard input and output are pipes, for the caller to close."""
        entering = self._entering(arguments)
        return subprocess.Popen(entering, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def inside(self, path: str) -> Path:
        """A path of the host as this test reaches it, a Unix socket too."""
        return Path(f"/proc/{self._pid}/root{path}")

    def listens(self, address: str) -> bool:
        """Whether something on the host takes connections at a TCP address or at a Unix socket's path."""
        if address.startswith("/"):
            # a socket's file stays behind when its program is killed, its line here does not
            return address in self.run("cat", "/proc/net/unix").stdout.split()
        port = int(address.rpartition(":")[2])
        return f":{port:04X} 00000000:0000 0A" in self.run("cat", "/proc/net/tcp").stdout

    def _entering(self, arguments: Sequence[str]) -> list[str]:
        root = ["--ipc", "--root", "--wd"] if self._root else []
        entering = ["nsenter", "--target", str(self._pid), "--mount", "--uts", "--net", "--pid", *root, "--"]
        return [*entering, *_clean(self._root), *arguments]

    @property
    def _holdover(self) -> list[str]:
        """The command on this host: the package's, or that of the project's own environment."""
        return ["holdover"] if self._root else _holdover()

    # -- the network --------------------------------------------------------------------------------

    def drop(self, other: SeparateHost) -> None:
        """Drop every packet from and to another host."""
        rules = (
            f"table inet cut-{other.name} {{\n"
            f"chain i {{ type filter hook input priority 0; ip saddr {other.address} drop; }}\n"
            f"chain o {{ type filter hook output priority 0; ip daddr {other.address} drop; }}\n}}\n"
        )
        subprocess.run(self._entering(["nft", "-f", "-"]), input=rules.encode(), check=True)

    def pass_again(self, other: SeparateHost) -> None:
        """Let packets from and to another host pass again."""
        subprocess.run(self._entering(["nft", "delete", "table", "inet", f"cut-{other.name}"]), check=True)


class Program:
    """A program that runs on a host.

    Attributes:
        host: The host's name.
    """

    def __init__(self, host: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.host = host
        self._popen = popen
        self._log = log

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._popen.poll() is None

    def output(self) -> str:
        """What it has written so far."""
        return self._log.read_text(errors="replace")

    @property
    def stopped(self) -> bool:
        """Whether it has been stopped, as by `kill -STOP`."""
        try:
            stat = Path(f"/proc/{_child(self._popen.pid)}/stat").read_text(encoding="ascii")
        except OSError:
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def go_on(self) -> None:
        """Let it go on after a stop; nsenter(1) has stopped together with it."""
        self.send(signal.SIGCONT)
        self._popen.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as by `kill -9`."""
        self.send(signal.SIGKILL)
        self._popen.wait(_HANG)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        # nsenter(1) has entered the host's process namespace by a fork: the program is its child
        os.kill(until(lambda: _child(self._popen.pid), f"{self.host}: the program has ended"), number)


class SeparateHosts:
    """All hosts of one test."""

    def __init__(self, folder: Path, *names: str, roots: Mapping[str, Path] | None = None) -> None:
        """Make them; ``folder`` is the test's own and keeps their state; ``roots``: a Debian by host."""
        # a link lives as long as its namespace, which a connection of a partition keeps for minutes: its name
        # is used once
        self._bridge = f"hb{os.getpid() % 100000:x}-{next(_NUMBERS):x}"
        self._links: list[str] = []
        self.hosts: dict[str, SeparateHost] = {}
        table = ["127.0.0.1 localhost"]
        for number, name in enumerate(names):
            state = folder / name
            for each in ("etc", "var"):
                (state / each).mkdir(parents=True)
            self.hosts[name] = SeparateHost(name, f"10.77.0.{11 + number}", state, (roots or {}).get(name))
            table.append(f"{self.hosts[name].address} {name}")
        for name in names:
            (folder / name / "hosts").write_text("\n".join(table) + "\n", encoding="utf-8")

    def __getitem__(self, name: str) -> SeparateHost:
        return self.hosts[name]

    def boot(self) -> None:
        """Begin all of them and their network."""
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("link", "set", self._bridge, "up")
        for number, host in enumerate(self.hosts.values()):
            pid = host.boot()
            link = f"{self._bridge}-{number}"
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
            self._links.append(link)
            _ip("link", "set", link, "master", self._bridge, "up")
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")

    def cut(self, first: str, second: str) -> None:
        """A partition: no packet passes between two hosts."""
        self[first].drop(self[second])
        self[second].drop(self[first])

    def mend(self, first: str, second: str) -> None:
        """End the partition between two hosts."""
        self[first].pass_again(self[second])
        self[second].pass_again(self[first])

    def shut_down(self) -> None:
        """End all of it."""
        for host in self.hosts.values():
            host.shut_down()
        for link in (*self._links, self._bridge):
            subprocess.run(["ip", "link", "delete", link], check=False, capture_output=True)


@contextlib.contextmanager
def separate_hosts(
    folder: Path, *names: str, roots: Mapping[str, Path] | None = None
) -> Iterator[SeparateHosts]:
    """Hosts with these names, shut down at the end; ``roots``: the Debian that a host boots, by its name."""
    needs_separate_hosts()
    hosts = SeparateHosts(folder, *names, roots=roots)
    try:
        hosts.boot()
        yield hosts
    finally:
        hosts.shut_down()


def _clean(root: Path | None) -> list[str]:
    """The start of a command with the environment of a fresh login, for a host with a root of its own."""
    if root is None:
        return []
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return ["env", "-i", f"PATH={path}", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def _own_tmp() -> str:
    """Whether a host may have a /tmp of its own: not where the project or its interpreter lies below it."""
    here = (Path(__file__).resolve(), Path(sys.prefix).resolve())
    return "no" if any(each.is_relative_to("/tmp") for each in here) else "yes"


def _child(pid: int) -> int:
    """The child of a process that has one; else 0."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0
    return int(children[0]) if children else 0


def _first_of(pid: int) -> int:
    """The process itself if it is process 1 of a host; else 0."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
    return pid if len(numbers) > 1 and numbers[-1] == "1" else 0


def until(look: Callable[[], T], otherwise: str) -> T:
    """Look until there is something, and return it; fail with ``otherwise`` when that hangs."""
    end = time.monotonic() + _HANG
    while not (found := look()):
        assert time.monotonic() < end, otherwise
        time.sleep(0.02)
    return found


def _holdover() -> list[str]:
    script = Path(sys.executable).with_name("holdover")
    return [str(script)] if script.exists() else [sys.executable, "-m", "holdover"]
