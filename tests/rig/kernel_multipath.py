"""Device-mapper multipath within a kernel of the rig: its modules, udev, and a multipathd of its own.

/etc gets an overlay of this kernel's, so that configuration and keys are written to no file of this machine.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from tests.rig.kernel_init import load_module
from tests.rig.kernel_programs import Shell, start_program

DEVICE = "/dev/mapper/mpatha"
"""The multipath device over all disks but those that are left out or apart."""

APART = "/dev/mapper/mpathb"
"""The one over the disks that are apart: as another host has the same LUN."""

_MODULES = (
    "fs/overlayfs/overlay",
    "drivers/md/dm-mod",
    "drivers/md/dm-multipath",
    "drivers/md/dm-service-time",
)
_OVERLAY = Path("/run/etc")
_RULE = Path("/etc/udev/rules.d/99-apart.rules")
_WWID = "3600140500000001f00d0000000000000"
_SOCKET = "\0/org/kernel/linux/storage/multipathd"
_UDEVD = "/lib/systemd/systemd-udevd"
_PATIENCE = 600.0


class Multipathd:
    """A running multipathd with the device over the disks that are not in ``left_out``.

    Those in ``apart`` are a device of their own.
    """

    def __init__(self, shell: Shell, left_out: tuple[str, ...] = (), apart: tuple[str, ...] = ()) -> None:
        modules = next(Path("/usr/lib/uml/modules").glob("*/kernel"))
        for module in _MODULES:
            load_module(modules / f"{module}.ko")
        _overlay_etc()
        self._left_out = left_out
        if apart:
            # multipathd takes for one device what udev gives one serial number
            _RULE.write_text(f'KERNEL=="{"|".join(apart)}", ENV{{ID_SERIAL}}="apart"\n')
        self.configure(keys="file")
        # what it shows of the disks is what multipathd knows them by
        for command in (
            [_UDEVD, "--daemon"],
            ["udevadm", "trigger", "--action=add", "--subsystem-match=block"],
            ["udevadm", "settle"],
        ):
            assert shell.run(command) == 0, command
        self.start()

    def configure(self, keys: str | None) -> None:
        """Write its configuration; ``keys`` is where the reservation keys of devices are."""
        names = "|".join(self._left_out) or "none"
        key = f"reservation_key {keys}" if keys else ""
        Path("/etc/multipath.conf").write_text(
            f"defaults {{\nfind_multipaths no\nuser_friendly_names yes\npolling_interval 1\n{key}\n}}\n"
            f'blacklist {{\ndevnode "^({names})$"\n}}\n'
            f'multipaths {{\nmultipath {{\nwwid "{_WWID}"\nalias mpatha\n}}\n'
            'multipath {\nwwid "apart"\nalias mpathb\n}\n}\n'
        )

    def start(self) -> None:
        """Start it, and wait for the device and its paths."""
        self._daemon = start_program(["multipathd", "-d", "-v1"])
        disks = [each for each in os.listdir("/sys/block") if each.startswith("sd")]
        wanted = len(set(disks) - set(self._left_out))
        await_true(
            lambda: Path(DEVICE).exists() and self.ask("list paths raw format %T").count("ready") >= wanted
        )

    def stop(self) -> None:
        """End it; the device stays."""
        self._daemon.terminate()
        self._daemon.wait(_PATIENCE)

    def ask(self, command: str) -> str:
        """What it answers to one command; nothing while it does not listen.

        It is asked at its socket, as its own client does it: to start that is dear in this kernel, and some
        answers are asked for until they are what is waited for.
        """
        said = command.encode() + b"\0"
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_PATIENCE)
            try:
                client.connect(_SOCKET)
            except ConnectionRefusedError:
                return ""
            client.sendall(struct.pack("@N", len(said)) + said)
            with client.makefile("rb") as answers:
                (length,) = struct.unpack("@N", answers.read(struct.calcsize("@N")))
                return answers.read(length).rstrip(b"\0").decode().strip()


def await_true(what: Callable[[], bool], patience: float = _PATIENCE) -> None:
    """Wait until ``what()`` is true."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def _overlay_etc() -> None:
    for name in ("upper", "work"):
        (_OVERLAY / name).mkdir(parents=True)
    options = f"lowerdir=/etc,upperdir={_OVERLAY}/upper,workdir={_OVERLAY}/work"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"overlay", b"/etc", b"overlay", 0, options.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mounting an overlay at /etc")
    Path("/etc/multipath").mkdir(exist_ok=True)
