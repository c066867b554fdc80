"""``holdover target``: embedded LUNs behind iSCSI, until a signal ends it."""

from __future__ import annotations

import asyncio
import signal

import uvloop

from holdover.agent.config import ConfigError, parse_host_port
from holdover.cli.errors import refuse
from holdover.iscsi.errors import IscsiNameError
from holdover.iscsi.names import check_iscsi_name
from holdover.iscsi.target import IscsiTarget
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.errors import LunError, OptionError
from holdover.lun.options import LunOptions, parse_lun_options

__all__ = ["run"]


def run(listen: str, iqn: str, luns: list[str]) -> None:
    """Serve until SIGINT or SIGTERM."""
    try:
        address = parse_host_port(listen, "--listen")
        check_iscsi_name(iqn)
        options = [parse_lun_options(text) for text in luns]
    except (ConfigError, IscsiNameError, OptionError) as error:
        refuse(str(error))
    try:
        uvloop.run(_serve(address.host, address.port, iqn, options))
    except (OSError, LunError) as error:
        refuse(str(error), 1)


async def _serve(host: str, port: int, iqn: str, options: list[LunOptions]) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(each, ended.set)
    luns: list[EmbeddedLun] = []
    try:
        luns.extend(EmbeddedLun.open(each) for each in options)
        target = IscsiTarget(iqn, dict(enumerate(luns)))
        bound = await target.start(host, port)
        shown = f"[{host}]" if ":" in host else host
        for number, option in enumerate(options):
            print(f"LUN {number}: {option.file} at iscsi://{shown}:{bound}/{iqn}/{number}", flush=True)
        await ended.wait()
        await target.close()
    finally:
        for lun in luns:
            await lun.close()
