"""SIGHUP: what is taken of a changed file, what waits for a restart, and that a wrong one changes nothing."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from holdover.agent.host import Host
from holdover.agent.reload import LIVE, RESTART, Merged, Reload, merge
from holdover.api.peer_hosts import UnknownPeer
from holdover.config.agent_file import (
    AgentConfig,
    ApiConfig,
    ExportsConfig,
    GuestConfig,
    HelperConfig,
    HistoryConfig,
    JournalConfig,
    LibvirtConfig,
    Limits,
    LogConfig,
    MetricsConfig,
    MigrationConfig,
    PeerConfig,
    QmpConfig,
    load_config,
)
from holdover.config.rules import Rule
from tests.agent.certified import Authority, running, within
from tests.rig.processes import Rig

RUNNING = AgentConfig(
    name="host-a", initiator="iqn.2026-11.org.example:a", api=ApiConfig(listen="unix:/run/1")
)
OTHER: dict[str, object] = {
    "name": "host-z",
    "initiator": "iqn.2026-11.org.example:z",
    "state_dir": "/var/lib/other",
    "early_commit": True,
    "api.listen": "unix:/run/2",
    "api.certificate": "c",
    "api.key": "k",
    "api.ca": "a",
    "api.operators": ("admin-1",),
    "api.readers": ("prometheus",),
    "api.mode": "0660",
    "api.group": "kvm",
    "peer": (PeerConfig(name="host-b", api="127.0.0.1:3"),),
    "guest": (GuestConfig(name="db1", machine_type="pc"),),
    "exports": ExportsConfig(max_sessions=7),
    "helper": HelperConfig(socket="/run/x"),
    "rule": (Rule(guest="db1", adopt=True),),
    "qmp": QmpConfig(socket="/run/{name}"),
    "journal": JournalConfig(file="/var/x"),
    "limits": Limits(step=1),
    "metrics": MetricsConfig(listen="127.0.0.1:9469"),
    "log": LogConfig(level="debug"),
    "history": HistoryConfig(keep=1),
    "libvirt": LibvirtConfig(lock_socket="/run/lock"),
    "migration": MigrationConfig(ports="5000-5009"),
}
"""For each key another setting than that of `RUNNING`."""


def value(config: AgentConfig, key: str) -> object:
    return getattr(config.api, key.removeprefix("api.")) if key.startswith("api.") else getattr(config, key)


def with_keys(keys: set[str]) -> AgentConfig:
    of_api = {key.removeprefix("api."): OTHER[key] for key in keys if key.startswith("api.")}
    if of_api.keys() & {"certificate", "key", "ca"}:
        of_api |= {key: OTHER[f"api.{key}"] for key in ("certificate", "key", "ca")}
    top = {key: OTHER[key] for key in keys if not key.startswith("api.")}
    return msgspec.structs.replace(RUNNING, api=msgspec.structs.replace(RUNNING.api, **of_api), **top)


def test_each_key_is_in_one_list() -> None:
    keys = {key for key in AgentConfig.__struct_fields__ if key != "api"}
    keys |= {f"api.{key}" for key in ApiConfig.__struct_fields__}
    assert keys == LIVE | RESTART == OTHER.keys()
    assert not LIVE & RESTART


@given(st.sets(st.sampled_from(sorted(OTHER))))
def test_in_force_is_what_can_be_taken_and_the_rest_is_named(keys: set[str]) -> None:
    wanted = with_keys(keys)
    merged = merge(RUNNING, wanted)
    changed = {key for key in OTHER if value(RUNNING, key) != value(wanted, key)}
    assert set(merged.taken) == changed & LIVE
    assert set(merged.waiting) == changed & RESTART
    for key in OTHER:
        assert value(merged.config, key) == value(wanted if key in LIVE else RUNNING, key)
    # once the agent has started anew nothing waits
    assert merge(wanted, wanted) == type(merged)(wanted, (), ())


def test_of_a_guest_only_the_disks_of_its_export_are_taken() -> None:
    exported = GuestConfig(name="db1", machine_type="pc", export="127.0.0.1:3260", devices=("a",))
    plain = GuestConfig(name="db2", machine_type="pc", devices=("a",))
    running = msgspec.structs.replace(RUNNING, guest=(exported, plain))

    def wanted(*guests: GuestConfig) -> AgentConfig:
        return msgspec.structs.replace(running, guest=guests)

    grown = msgspec.structs.replace(exported, devices=("a", "b"))
    assert merge(running, wanted(grown, plain)) == Merged(wanted(grown, plain), ("guest.devices",), ())
    moved = msgspec.structs.replace(grown, export="127.0.0.1:3261")
    assert merge(running, wanted(moved, plain)) == Merged(running, (), ("guest",))
    other = msgspec.structs.replace(plain, devices=("b",))
    assert merge(running, wanted(grown, other)) == Merged(
        wanted(grown, plain), ("guest.devices",), ("guest",)
    )
    assert merge(running, wanted(grown)) == Merged(wanted(grown, plain), ("guest.devices",), ("guest",))


FILE = """
name = "host-a"
initiator = "iqn.2026-11.org.example:a"
state-dir = "{folder}/state"
[api]
listen = "unix:{folder}/api.sock"
"""
CERTIFICATES = """
certificate = "{folder}/host-a.crt"
key = "{folder}/host-a.key"
ca = "{folder}/ca.crt"
"""


def reloaded(host: Host, file: Path) -> list[str]:
    """Read the file again; what was logged, with its values."""
    with capture_logs() as logs:
        Reload(host, None, lambda: load_config(file)).now()
    return [" ".join(str(each) for each in log.values()) for log in logs]


def test_a_changed_file_is_taken_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    Authority.make(tmp_path).issue("host-a")
    file = tmp_path / "agent.toml"
    text = (FILE + CERTIFICATES).format(folder=tmp_path)
    file.write_text(text)

    async def test() -> None:
        async with running(load_config(file)) as host:
            with pytest.raises(UnknownPeer):
                host.peers.client("host-b")
            peer = '[[peer]]\nname = "host-b"\napi = "127.0.0.1:1"\n'
            file.write_text(f'{text}[limits]\nstep = 3\n{peer}[journal]\nfile = "/x"\n')
            taken, waiting = reloaded(host, file)
            assert "peer, limits" in taken
            assert "wait for a restart" in waiting
            assert "journal" in waiting
            assert host.peers.client("host-b").api == "127.0.0.1:1"
            assert [each.name for each in host.state().peers] == ["host-b"]
            before = host.config
            assert (before.limits.step, before.journal) == (3, None)

            for wrong in ("name = ", text + "[limits]\nstepp = 1\n", text + "[limits]\nstep = -1\n", None):
                if wrong is None:
                    file.unlink()
                else:
                    file.write_text(wrong)
                (refused,) = reloaded(host, file)
                assert "stay as they are" in refused
                assert str(file) in refused
                assert host.config is before

            # its connections to a peer that is elsewhere now are closed
            client = host.peers.client("host-b")
            file.write_text(text + peer.replace(":1", ":2"))
            reloaded(host, file)
            assert host.peers.client("host-b") is not client
            assert host.peers.client("host-b").api == "127.0.0.1:2"

    within(600, test)


def test_what_needs_what_waits_for_a_restart_is_not_taken(tmp_path: Path) -> None:
    Authority.make(tmp_path).issue("host-a")
    file = tmp_path / "agent.toml"
    text = FILE.format(folder=tmp_path)
    file.write_text(text)

    async def test() -> None:
        async with running(load_config(file)) as host:
            before = host.config
            peer = '[[peer]]\nname = "host-c"\napi = "host-c:1"\n'
            file.write_text(text + CERTIFICATES.format(folder=tmp_path) + peer)
            (refused,) = reloaded(host, file)
            assert "host-c" in refused
            assert host.config is before

            # without a file there is nothing to read
            with capture_logs() as logs:
                Reload(host, None, None).now()
            assert [log["log_level"] for log in logs] == ["info"]
            assert host.config == before

    within(600, test)


def test_no_signal_ends_an_agent_without_certificates(rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target().url()])
    for number, words in (
        (signal.SIGHUP, "read again"),
        (signal.SIGUSR1, "SIGUSR1"),
    ):
        agent.process.popen.send_signal(number)
        while words not in agent.process.output():
            assert agent.process.popen.poll() is None, agent.process.output()
            time.sleep(0.02)
    assert rig.holdover("status", "--api", agent.api).returncode == 0
