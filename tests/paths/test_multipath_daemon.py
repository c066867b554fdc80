from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from typing import Any

import pytest

from holdover.paths import multipath_daemon
from holdover.paths.multipath_command import DeviceRegistration
from holdover.paths.multipath_daemon import MultipathDaemon
from holdover.scsi.path import PathError

PATHS = "sda|ready\nsdb|faulty\nsdc|ghost\nsdd|i/o pending\n"


class FakeMultipathd:
    """libmpathcmd, and a multipathd behind it that keeps the key of one device."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.watched = False
        self.uses_file = True
        self.running = True
        self.answers: dict[str, str | None] = {}
        self.commands: list[str] = []
        self.libc = ctypes.CDLL(None)
        self.libc.strdup.restype = ctypes.c_void_p

    def mpath_connect(self) -> int:
        return os.open("/dev/null", os.O_RDONLY) if self.running else -1

    def mpath_process_cmd(self, connection: int, command: bytes, reply: Any, timeout: int) -> int:
        os.fstat(connection)
        assert timeout > 0
        text = command.decode()
        self.commands.append(text)
        answer = self.answers[text] if text in self.answers else self.answer(*text.split())
        if answer is None:
            ctypes.set_errno(110)
            return -1
        ctypes.cast(reply, ctypes.POINTER(ctypes.c_void_p))[0] = self.libc.strdup(answer.encode())
        return 0

    def answer(self, verb: str, *words: str) -> str:
        match verb:
            case "list":
                return PATHS
            case "getprkey":
                return f"{self.key if self.uses_file and self.key else 'none'}\n"
            case "getprstatus":
                return f"{int(self.watched)}\n"
            case "setprkey" | "unsetprkey":
                self.key = words[-1] if verb == "setprkey" else None
            case "setprstatus" | "unsetprstatus":
                self.watched = verb == "setprstatus"
            case _:
                return "fail\n"
        return "ok\n"


@pytest.fixture
def multipathd(monkeypatch: pytest.MonkeyPatch) -> FakeMultipathd:
    found = FakeMultipathd()
    monkeypatch.setattr(multipath_daemon, "_library", lambda: found)
    return found


@pytest.fixture
def daemon() -> Iterator[MultipathDaemon]:
    found = MultipathDaemon()
    yield found
    found.close()


def test_paths_that_it_has_found_good_are_usable(multipathd: FakeMultipathd, daemon: MultipathDaemon) -> None:
    assert daemon.usable() == {"sda", "sdc"}
    assert multipathd.commands == ["list paths raw format %d|%T"]


@pytest.mark.parametrize(
    "registration", [DeviceRegistration(0xA, aptpl=True), DeviceRegistration(2**64 - 1, aptpl=False)]
)
def test_new_paths_are_registered_with_the_key_it_was_told(
    multipathd: FakeMultipathd, daemon: MultipathDaemon, registration: DeviceRegistration
) -> None:
    assert daemon.registration("mpatha") is None
    daemon.keep("mpatha", registration)
    assert daemon.registration("mpatha") is None, "kept for later alone"
    daemon.watch("mpatha")
    assert daemon.registration("mpatha") == registration
    daemon.keep("mpatha", DeviceRegistration(0xB, aptpl=False))
    assert daemon.registration("mpatha") is None
    daemon.watch("mpatha")
    daemon.keep("mpatha", None)
    assert daemon.registration("mpatha") is None
    assert multipathd.key is None


@pytest.mark.parametrize("status", ["set\n", "unset\n", "unknown\n"])
def test_a_key_that_it_would_not_use_is_none(
    multipathd: FakeMultipathd, daemon: MultipathDaemon, status: str
) -> None:
    multipathd.key = "0xa"
    multipathd.answers["getprstatus map mpatha"] = status
    assert daemon.registration("mpatha") == (DeviceRegistration(0xA, False) if status == "set\n" else None)


def test_a_multipathd_that_keeps_no_keys_is_refused(
    multipathd: FakeMultipathd, daemon: MultipathDaemon
) -> None:
    multipathd.uses_file = False
    with pytest.raises(PathError, match="put `reservation_key file` into the defaults of"):
        daemon.keep("mpatha", DeviceRegistration(0xA, aptpl=False))
    assert multipathd.key is None
    assert not multipathd.watched
    multipathd.answers["setprkey map mpatha key 0xa"] = "fail\n"
    with pytest.raises(PathError, match="put `reservation_key file` into the defaults of"):
        daemon.keep("mpatha", DeviceRegistration(0xA, aptpl=False))


def test_what_it_refuses_is_told(multipathd: FakeMultipathd, daemon: MultipathDaemon) -> None:
    multipathd.answers["setprkey map mpatha key 0xa"] = "permission deny: need to be root\n"
    with pytest.raises(PathError, match="Holdover has to run as root"):
        daemon.keep("mpatha", DeviceRegistration(0xA, aptpl=False))
    multipathd.answers["unsetprkey map mpatha"] = "fail\n"
    with pytest.raises(PathError, match="it refuses `unsetprkey map mpatha`; see its log"):
        daemon.keep("mpatha", None)
    multipathd.answers["getprkey map mpatha"] = "fail\n"
    multipathd.answers["getprstatus map mpatha"] = "1\n"
    with pytest.raises(PathError, match="'fail' to the question for the key of mpatha"):
        daemon.registration("mpatha")


def test_a_multipathd_that_does_not_run_or_answer_says_so(
    multipathd: FakeMultipathd, daemon: MultipathDaemon
) -> None:
    multipathd.answers["list paths raw format %d|%T"] = None
    with pytest.raises(PathError, match="multipathd: no answer to `list paths"):
        daemon.usable()
    multipathd.running = False
    with pytest.raises(PathError, match="it does not run; start it: systemctl start multipathd"):
        daemon.usable()


def test_a_missing_library_names_the_package(
    monkeypatch: pytest.MonkeyPatch, daemon: MultipathDaemon
) -> None:
    monkeypatch.setattr(multipath_daemon, "_LIBRARY", "libmpathcmd.so.no-such-version")
    multipath_daemon._library.cache_clear()
    with pytest.raises(PathError, match="install the Debian package multipath-tools"):
        daemon.usable()
    multipath_daemon._library.cache_clear()
