"""The LUNs of guests: which they are, and whether they know persistent reservations."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path as FilePath

from holdover.api.documents import HostState
from holdover.config.agent_file import AgentConfig, devices_of
from holdover.config.secrets import locator_of
from holdover.doctor.finding import Finding, ok, warning, wrong
from holdover.iscsi.url import IscsiUrl
from holdover.paths.iscsi import InitiatorIdentity, IscsiSessions, isid_of
from holdover.paths.locator import HostDevice, LocatorError, LunLocator, open_path
from holdover.paths.sgio import SgIo
from holdover.reservations.driver import run_async
from holdover.reservations.questions import identify
from holdover.reservations.steps import StepFailed
from holdover.scsi.cdbs.opcodes import InServiceAction
from holdover.scsi.path import Path, PathError
from holdover.scsi.reservation.reservation_in import Capabilities
from holdover.scsi.reservation.reservation_out import in_command
from holdover.scsi.sense import describe_response, is_unit_attention

_LIMIT_SECONDS = 10.0


async def lun_checks(config: AgentConfig, state: HostState | None) -> Sequence[Finding]:
    """Ask each LUN that the agent's file names, and each disk that the agent's guests have, once."""
    drives: dict[str, LunLocator] = {}
    for device in devices_of(config):
        locator = locator_of(device)
        drives[str(locator)] = locator
    for guest in () if state is None else state.guests:
        for each in guest.devices:
            if each.drive.startswith("/"):
                drives[each.drive] = HostDevice(FilePath(each.drive))
    if not drives:
        return [ok("LUNs", "the agent's file names no LUN, and no guest has shown a disk")]
    sessions, io = IscsiSessions(_LIMIT_SECONDS), SgIo()
    initiator = config.initiator
    try:
        return await asyncio.gather(
            *(
                _ask(name, open_path(each, _identity(initiator, each), sessions, io))
                for name, each in drives.items()
            )
        )
    except LocatorError as error:
        return [wrong("LUNs", str(error), "correct drive= in the agent's file")]
    finally:
        io.close()


def _identity(initiator: str, locator: LunLocator) -> InitiatorIdentity:
    """An I_T nexus that is no guest's, and one for each address: two of one target disturb nothing."""
    portal = locator.portal if isinstance(locator, IscsiUrl) else ""
    return InitiatorIdentity(initiator, isid_of(f"holdover doctor\0{portal}"))


async def _ask(name: str, path: Path) -> Finding:
    todo = "look at the path to the LUN: holdover pr status DRIVE; multipath -ll"
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            designator = await run_async(identify(), path.execute)
            command = in_command(InServiceAction.REPORT_CAPABILITIES)
            response = await path.execute(command)
            while is_unit_attention(response):
                response = await path.execute(command)
    except TimeoutError:
        return wrong("LUNs", f"{name} has not answered within {_LIMIT_SECONDS:g} s", todo)
    except (PathError, StepFailed) as error:
        return wrong("LUNs", f"{name}: {error}", todo)
    finally:
        await path.close()
    if not response.good:
        text = (
            f"{name} is LUN {designator}, and answers REPORT CAPABILITIES with {describe_response(response)}"
        )
        return warning("LUNs", text, "its guests may use no persistent reservations there")
    aptpl = Capabilities.decode(response.data_in).ptpl_c
    kept = "keeps" if aptpl else "does not keep"
    return ok("LUNs", f"{name} is LUN {designator}; it {kept} reservations through a loss of power")
