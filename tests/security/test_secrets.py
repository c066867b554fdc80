"""A CHAP secret of a drive: in no message, log, record or answer, and warned of where others may read it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig, ConfigError, devices_of, load_config
from holdover.config.secrets import locator_of, secret_warnings
from holdover.guest.options import DeviceOptionError, DeviceOptions, parse_device
from holdover.iscsi.errors import IscsiUrlError
from holdover.iscsi.url import IscsiUrl, parse_iscsi_url
from holdover.journal.memory import MemoryJournal
from holdover.paths.locator import LocatorError, parse_locator

SECRET = "hidden0secret"  # noqa: S105 - it is what is looked for
IQN = "iqn.2026-11.org.example:san"
DRIVE = f"iscsi://alice%{SECRET}@127.0.0.1:1/{IQN}/0"
FILE = """
name = "host"
initiator = "iqn.2026-11.org.example:host"
state-dir = "{folder}/state"
[api]
listen = "unix:{folder}/api.sock"
[journal]
file = "{folder}/journal"
[[guest]]
name = "db1"
machine = "pc-q35-11.0"
export = "127.0.0.1:0"
devices = ["scsi-block,id=disk0,{drive}"]
[limits]
connect = 0.2
step = 0.2
"""


def write(folder: Path, drive: str, more: str = "", mode: int = 0o600) -> Path:
    file = folder / "agent.toml"
    file.write_text(FILE.format(folder=folder, drive=drive) + more)
    file.chmod(mode)
    return file


@given(
    st.text("ab@/%:,[]=?#", min_size=1, max_size=8),
    st.sampled_from(("", "@")),
    st.sampled_from(("host", "[::1]", "")),
)
def test_no_error_repeats_a_piece_of_a_password(noise: str, at: str, host: str) -> None:
    """Whatever is forgotten or not encoded: not even the pieces between the characters that separate."""
    assume(at or "@" not in noise)  # else it is a URL like others, with the rest of the password as its host
    for secret in (SECRET + noise + SECRET, noise + SECRET):
        url = f"iscsi://alice%{secret}{at}{host}/{IQN}/0"
        for read in (parse_iscsi_url, parse_locator):
            assert SECRET not in said_of(read, url)
        for text in (
            f"scsi-block,drive={url}",
            f"scsi-block,{url}",
            f"{url},scsi-block",
            f"scsi-block,x={url}",
        ):
            assert SECRET not in said_of(lambda each: locator_of(parse_device(each)), text)


def said_of(read: Callable[[str], object], text: str) -> str:
    """What is shown of a text that is read, or of the error."""
    try:
        found = read(text)
    except (IscsiUrlError, LocatorError, DeviceOptionError) as error:
        return str(error)
    return f"{found}{found!r}"


def test_a_secret_is_in_nothing_that_an_agent_shows(tmp_path: Path) -> None:
    # a rule for a LUN makes the agent ask this one, which does not answer
    undecided = '[[rule]]\nlun = "naa.6*"\nmigrate-pr = "on"\n'
    config = load_config(write(tmp_path, f"drive={DRIVE}", undecided))

    async def refused() -> str:
        with pytest.raises(ConfigError, match="cannot be asked which LUN it is") as caught:
            await Host(config).start()
        return str(caught.value)

    # at 847e57f this was the drive as written
    assert SECRET not in asyncio.run(refused())
    journal = MemoryJournal()

    async def shown() -> str:
        host = Host(load_config(write(tmp_path, f"drive={DRIVE},migrate-pr=on")), journal=journal)
        await host.start()
        try:
            return msgspec.json.encode(host.state()).decode() + repr(
                vars(host.guests["db1"].devices[0].block)
            )
        finally:
            await host.close()

    with capture_logs() as log:
        state = asyncio.run(shown())
    assert "iscsi://alice@127.0.0.1:1" in state
    assert SECRET not in f"{state}{log}{journal.load()}"


def test_a_real_agent_says_nothing_of_it(tmp_path: Path) -> None:
    file = write(tmp_path, f"drive={DRIVE},migrate-pr=on", mode=0o644)
    command = [sys.executable, "-m", "holdover", "agent", "--config", str(file)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as agent:
        assert agent.stdout is not None
        assert "host" in agent.stdout.readline()
        ask = [sys.executable, "-m", "holdover", "status", "--json", "--api", f"unix:{tmp_path}/api.sock"]
        status = subprocess.run(ask, capture_output=True, text=True, check=False)
        assert status.returncode == 0, status.stderr
        agent.send_signal(signal.SIGTERM)
        out, errors = agent.communicate(timeout=600)
    show = [sys.executable, "-m", "holdover", "journal", "show", "--json", str(tmp_path / "journal")]
    journal = subprocess.run(show, capture_output=True, text=True, check=True).stdout
    assert json.loads(status.stdout)[0]["host"] == "host", status.stderr
    assert SECRET not in out + errors + status.stdout + status.stderr + journal
    assert f"{file} has the CHAP secret for iscsi://alice@127.0.0.1:1/{IQN}/0 in it" in errors
    assert f"chmod 600 {file}" in errors


class TestSecretFile:
    @pytest.fixture
    def secret(self, tmp_path: Path) -> Path:
        file = tmp_path / "san.secret"
        file.write_text(f"{SECRET}\n")
        file.chmod(0o600)
        return file

    def test_it_is_beside_the_drive(self, tmp_path: Path, secret: Path) -> None:
        drive = f"drive=iscsi://alice@san/{IQN}/0,secret-file={secret}"
        (device,) = devices_of(load_config(write(tmp_path, drive)))
        place = locator_of(device)
        assert isinstance(place, IscsiUrl)
        assert (place.user, place.password) == ("alice", SECRET)
        assert SECRET not in f"{device!r}{place!r}{place}"

    @pytest.mark.parametrize(
        ("drive", "problem"),
        [
            (f"iscsi://san/{IQN}/0", "the user is missing, whose secret is given"),
            (f"iscsi://alice%other@san/{IQN}/0", "it has a password, and another one is given beside it"),
            ("/dev/sda", "a device of the host has no secret"),
        ],
    )
    def test_what_does_not_go_with_it_is_refused(
        self, tmp_path: Path, secret: Path, drive: str, problem: str
    ) -> None:
        with pytest.raises(ConfigError, match=problem):
            load_config(write(tmp_path, f"drive={drive},secret-file={secret}"))

    @pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"\xff\xff", b"x" * 5000])
    def test_it_is_one_line(self, tmp_path: Path, secret: Path, content: bytes) -> None:
        secret.write_bytes(content)
        with pytest.raises(ConfigError, match=f"secret-file {secret}: ") as caught:
            load_config(write(tmp_path, f"drive=iscsi://alice@san/{IQN}/0,secret-file={secret}"))
        assert "lines" not in str(caught.value).partition("secret:")[2]

    def test_one_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"secret-file /nowhere: No such file"):
            load_config(write(tmp_path, f"drive=iscsi://alice@san/{IQN}/0,secret-file=/nowhere"))


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o400, False), (0o640, True), (0o604, True)])
def test_who_else_may_read_a_secret_is_warned_of(tmp_path: Path, mode: int, warned: bool) -> None:
    file = write(tmp_path, f"drive={DRIVE}", mode=mode)
    in_config = secret_warnings(devices_of(load_config(file)), file)
    assert bool(in_config) is warned
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(mode)
    beside = DeviceOptions(None, f"iscsi://alice@san/{IQN}/0", secret_file=str(secret))
    assert bool(secret_warnings([beside], file)) is warned
    assert SECRET not in "".join(in_config)


def test_a_secret_on_the_command_line_is_warned_of() -> None:
    (warning,) = secret_warnings([DeviceOptions(None, DRIVE)], None)
    assert "is on the command line, which every process of this host may read" in warning
    assert SECRET not in warning
    assert secret_warnings([DeviceOptions(None, f"iscsi://san/{IQN}/0")], None) == []


def test_a_file_without_a_secret_may_be_read_by_all(tmp_path: Path) -> None:
    file = write(tmp_path, f"drive=iscsi://san/{IQN}/0", mode=0o644)
    assert secret_warnings(devices_of(load_config(file)), file) == []
    assert os.stat(file).st_mode & 0o777 == 0o644


def test_the_configuration_is_not_shown_with_a_secret() -> None:
    config = msgspec.toml.decode(FILE.format(folder="/x", drive=f"drive={DRIVE}"), type=AgentConfig)
    assert SECRET not in repr(devices_of(config))
