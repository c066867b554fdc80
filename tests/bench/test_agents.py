from __future__ import annotations

from pathlib import Path

from bench.agents import GUEST, settings

from holdover.config.agent_file import load_config
from holdover.demo.hosts import certified_hosts


def test_the_agents_settings_are_what_an_agent_takes(tmp_path: Path) -> None:
    hosts = certified_hosts(tmp_path, ("host-a", "host-b"))
    drives = [f"iscsi://127.0.0.1:3260/iqn.2026-11.org.holdover:bench/{lun}" for lun in (1, 2)]
    file = tmp_path / "agent.toml"
    file.write_text(settings(tmp_path, "host-b", hosts, "127.0.0.1:3261", drives, incoming=True))
    config = load_config(file)
    assert config.name == "host-b"
    assert [(peer.name, peer.api) for peer in config.peer] == [("host-a", hosts["host-a"].address)]
    assert config.journal is not None
    (guest,) = config.guest
    assert (guest.name, guest.incoming, guest.export) == (GUEST, True, "127.0.0.1:3261")
    assert guest.devices[1].endswith(f"drive={drives[1]},migrate-pr=on")
