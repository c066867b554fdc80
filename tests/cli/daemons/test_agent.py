"""``holdover agent``: what it does not start with."""

from __future__ import annotations

from tests.rig.processes import Rig

CONFIG = """
name = "host-a"
initiator = "iqn.2026-11.org.example:host-a"
[api]
listen = "unix:{folder}/api.sock"
[journal]
file = "{journal}"
"""


def test_a_journal_that_is_none_is_named_with_what_to_do(rig: Rig) -> None:
    journal, config = rig.folder / "journal", rig.folder / "agent.toml"
    journal.write_bytes(bytes(range(256)) * 40)
    config.write_text(CONFIG.format(folder=rig.folder, journal=journal))
    # a process of its own, since an agent gives up a capability that the other tests need
    ended = rig.holdover("agent", "--config", str(config))
    assert ended.returncode == 1
    said = ended.stderr
    assert f"agent host-a: journal {journal}: it is not a journal" in said
    assert "give the path of another file" in said
    assert journal.read_bytes() == bytes(range(256)) * 40
