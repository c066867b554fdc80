"""The command line as such: quick, helpful, and clear about what is wrong."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("arguments", [["pr", "-h"], ["completion", "bash"]], ids=" ".join)
def test_output_that_nobody_reads_ends_with_141(rig: Rig, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "holdover", *arguments]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=rig.folder, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


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
        (["agent", "--name", "a"], "--initiator, --guest, --machine, --export, --device missing"),
        (["agent", "--config", "none.toml", "--name", "a"], "--name: not allowed beside --config"),
        (["agent", "--config", "none.toml"], "none.toml: No such file"),
        (["pr", "keys", "http://127.0.0.1/x"], "must start with iscsi://"),
        (
            ["pr", "register", "iscsi://h/iqn.2026-11.org.example:t/0", "--new-key", "0x1ffffffffffffffff"],
            "--new-key",
        ),
        (
            ["pr", "reserve", "iscsi://h/iqn.2026-11.org.example:t/0", "--key", "1", "--type", "2"],
            "'2' is not one of 'we', 'ea', 'wero'",
        ),
        (["agent", "--config", "none.toml", "--api", "unix:/a"], "--api: not allowed beside --config"),
        (["migrate", "g", "--from", "a", "--to", "b"], "API: 'a' is not HOST:PORT"),
        (["migrate", "g", "--from", "h:1", "--to", "b"], "over TCP an agent needs a certificate"),
        (["migrate", "g", "--to", "h", "--fail-after", "lunch"], "'lunch' is not one of 'prepare', 'commit'"),
        (["migrate", "g", "--to", "h", "--source-qmp", "x"], "belong together"),
        (["status", "--api", "nowhere"], "'nowhere' is not HOST:PORT"),
        (["migrate"], "missing argument 'GUEST'"),
        (["migrate", "g"], "missing option '--to'"),
        (["migrate", "g", "--to", "h", "--stale", "old"], "'old' is not one of 'refuse', 'reread', 'force'"),
        (
            ["migrate", "g", "--to", "h", "--timeot", "1"],
            "no such option: --timeot (Possible options: --timeout, --timeout-action, --to)",
        ),
        (["migrate", "g", "--to", "h", "--timeout", "long"], "'--timeout'"),
        (["migrat"], "no such command 'migrat'; did you mean migrate?"),
        (["handover", "undo"], "the commands are prepare, commit, finish, rollback, take, status, trace;"),
        (["target-ctl", "/nowhere", "lst"], "'lst' is not one of 'list', 'add', 'remove', 'clear', 'status'"),
        (["completion", "tcsh"], "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
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
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
