"""A LUN in this process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from holdover.scsi.cdbs.cdb import Inquiry
from holdover.scsi.cdbs.opcodes import OutServiceAction
from holdover.scsi.command import Command
from holdover.scsi.nexus import ITNexus
from holdover.scsi.reservation.reservation_out import out_command
from holdover.scsi.reservation.transport_id import IscsiTransportID
from holdover.scsi.sense import is_unit_attention
from tests.paths.local_path import LocalPath


def test_commands_arrive_as_the_nexus_given(tmp_path: Path) -> None:
    async def test() -> None:
        lun = EmbeddedLun.open(LunOptions(tmp_path / "disk", 1 << 20))
        nexus = ITNexus(IscsiTransportID("iqn.2026-11.org.example:one", bytes(6)))
        path = LocalPath(lun, nexus)
        assert path.name == "local"
        assert (await path.execute(Command(Inquiry(36).encode(), data_in_length=36))).good
        register = out_command(OutServiceAction.REGISTER, 0, 7)
        response = await path.execute(register)
        if is_unit_attention(response):
            response = await path.execute(register)
        assert response.good
        assert lun.state.key_of(nexus) == 7
        await path.close()
        await lun.close()

    asyncio.run(test())
