"""``holdover agent``: what it does not start with."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog

from holdover.cli.agent import run
from tests.rig.processes import free_port

CONFIG = """
name = "host-a"
initiator = "iqn.2026-11.org.example:host-a"
[api]
listen = "127.0.0.1:{port}"
[journal]
file = "{journal}"
"""


def test_a_journal_that_is_none_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal, config = tmp_path / "journal", tmp_path / "agent.toml"
    journal.write_bytes(bytes(range(256)) * 40)
    config.write_text(CONFIG.format(port=free_port(), journal=journal))
    try:
        with pytest.raises(SystemExit) as ended:
            run(config, {}, [], incoming=False)
    finally:
        structlog.reset_defaults()  # it logs to a standard error that is pytest's
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert f"agent host-a: journal {journal}: it is no journal" in said
    assert "name another file" in said
    assert journal.read_bytes() == bytes(range(256)) * 40
