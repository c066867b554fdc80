"""Two agents do not share a state folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from holdover.agent.state_lock import locked
from holdover.config.agent_file import ConfigError
from tests.rig.processes import Rig


def test_a_second_agent_is_refused_and_told_which_process_is_first(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "state"),
        pytest.raises(ConfigError, match=rf"another agent, process {os.getpid()}, keeps its state there"),
        locked(tmp_path / "state"),
    ):
        pass
    with locked(tmp_path / "state"):
        pass


def test_a_process_that_was_killed_holds_it_no_longer(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from holdover.agent.state_lock import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"locked\n"
    with pytest.raises(ConfigError, match=f"process {holder.pid}"), locked(tmp_path):
        pass
    holder.kill()
    holder.communicate()
    with locked(tmp_path):
        pass


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="lock cannot be opened"), locked(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_the_command_names_what_to_do(rig: Rig) -> None:
    file, state = rig.folder / "agent.toml", rig.folder / "state"
    file.write_text(
        f'name = "h"\ninitiator = "iqn.2026-11.org.example:h"\nstate-dir = "{state}"\n'
        f'[api]\nlisten = "unix:{rig.folder / "api.sock"}"\n[helper]\nsocket = "{rig.folder / "helper"}"\n'
    )
    with locked(state):
        done = rig.holdover("agent", f"--config={file}")
    assert done.returncode == 1
    assert "another agent, process" in done.stderr
    assert "--state-dir" in done.stderr
