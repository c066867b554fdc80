"""Run inside a kernel of the rig: the logical unit beside the kernel's target, through its iSCSI.

As `kernel_inside_lun`, whose arguments it takes. Here three initiators meet one target port, as on a real
fabric, and the kernel answers PREEMPT AND ABORT; but there is no SG_IO: the initiator is the project's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from holdover.iscsi.url import parse_iscsi_url
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions
from holdover.scsi.command import Command, Response
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.transport_id import IscsiTransportID
from tests.peers.kernel_inside_lun import main
from tests.rig.kernel_init import load_module

_TARGET = Path("/sys/kernel/config/target")
_PORTAL = "127.0.0.1:3260"
_NAME = "iqn.2026-11.org.example:kernel"


class Iscsi:
    """The target through sessions of four initiators.

    Its port comes after that of the rig's one disk.
    """

    ports = (2,)
    aborts = True

    def __init__(self) -> None:
        initiators = [
            IscsiTransportID(f"{_NAME}-{each}", bytes([0x80, 0, 0, 0, 0, each])) for each in (1, 2, 3, 4)
        ]
        self.nexuses = [ITNexus(each, self.ports[0]) for each in initiators]
        set_up([each.name for each in initiators])
        sessions, url = IscsiSessions(), parse_iscsi_url(f"iscsi://{_PORTAL}/{_NAME}/0")
        self._paths = [
            sessions.path(url, InitiatorIdentity(each.name, each.isid or b"")) for each in initiators
        ]

    async def execute(self, nexus: int, command: Command) -> Response:
        return await self._paths[nexus].execute(command)


def set_up(initiators: list[str]) -> None:
    """One portal, the rig's LUN, and an access list for each initiator: the kernel registers by these."""
    load_module(
        next(Path("/usr/lib/uml/modules").glob("*/kernel")) / "drivers/target/iscsi/iscsi_target_mod.ko"
    )
    group = _TARGET / "iscsi" / _NAME / "tpgt_1"
    group.mkdir(parents=True)
    lun = group / "lun" / "lun_0"
    lun.mkdir()
    (lun / "port").symlink_to(next(_TARGET.glob("core/fileio_0/lun0")))
    (group / "np" / _PORTAL).mkdir()
    for name in initiators:
        mapped = group / "acls" / name / "lun_0"
        mapped.mkdir(parents=True)
        (mapped / "lun").symlink_to(lun)
    (group / "attrib" / "authentication").write_text("0\n")
    (group / "enable").write_text("1\n")


if __name__ == "__main__":
    main(Iscsi, *sys.argv[1:])
