"""The command line as such: quick, helpful, and clear about what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from holdover import __version__
from tests.rig.processes import Rig

_HEAVY = ("litestar", "uvicorn", "aiohttp", "cryptography", "uvloop", "rich", "asyncio", "msgspec", "qemu")


def test_version(rig: Rig) -> None:
    done = rig.holdover("--version")
    assert (done.returncode, done.stdout) == (0, f"holdover {__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["pr", "--help"]], ids=" ".join)
def test_nothing_heavy_is_imported_to_answer(arguments: list[str]) -> None:
    script = (
        "import sys, atexit\n"
        f"atexit.register(lambda: print('HEAVY', *[m for m in {_HEAVY!r} if m in sys.modules]))\n"
        f"sys.argv = ['holdover', *{arguments!r}]\n"
        "from holdover.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY"


def test_every_command_has_its_help(rig: Rig) -> None:
    listed = rig.holdover("--help").stdout
    for command in ("target", "agent", "status", "migrate", "handover", "journal", "ca", "demo", "pr"):
        assert f"\n  {command} " in listed
        done = rig.holdover(command, "--help")
        assert done.returncode == 0
        assert "--help" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["target", "--iqn", "iqn.2026-11.org.example:t", "--lun", "file=x,size=7"], "size"),
        (["target", "--iqn", "iqn.2026-11.org.example:t", "--lun", "file=x,colour=red"], "colour"),
        (["target", "--iqn", "t", "--lun", "file=x,size=1M"], "iSCSI name 't'"),
        (
            ["target", "--iqn", "iqn.2026-11.org.example:t", "--lun", "file=x,size=1M", "--listen", "x"],
            "--listen",
        ),
        (["agent", "--name", "a"], "--api, --initiator, --guest, --machine, --export, --device missing"),
        (["agent", "--config", "none.toml", "--name", "a"], "--name: not beside --config"),
        (["agent", "--config", "none.toml"], "none.toml: No such file"),
        (["pr", "keys", "http://127.0.0.1/x"], "must start with iscsi://"),
        (
            ["pr", "register", "iscsi://h/iqn.2026-11.org.example:t/0", "--new-key", "0x1ffffffffffffffff"],
            "--new-key",
        ),
        (["pr", "reserve", "iscsi://h/iqn.2026-11.org.example:t/0", "--key", "1", "--type", "2"], "--type 2"),
        (["migrate", "g", "--from", "a", "--to", "b"], "API: 'a' is not HOST:PORT"),
        (["migrate", "g", "--from", "h:1", "--to", "h:2", "--fail-after", "lunch"], "--fail-after lunch"),
        (["migrate", "g", "--from", "h:1", "--to", "h:2", "--source-qmp", "x"], "belong together"),
        (["status", "--api", "nowhere"], "'nowhere' is not HOST:PORT"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_request_ends_with_2_and_names_what_is_wrong(
    rig: Rig, arguments: list[str], message: str
) -> None:
    done = rig.holdover(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("holdover: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
