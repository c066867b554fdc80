"""``holdover guest attach-disk`` and ``holdover guest detach-disk``."""

from __future__ import annotations

import msgspec

from holdover.api.placement_documents import AttachDisk, DetachDisk, PlacementResult
from holdover.cli.asking import Asking
from holdover.cli.one_agent import ask_agent


def attach(guest: str, device: str, lun: int | None, api: str, asking: Asking, *, json: bool) -> None:
    """Have the agent give the guest's export one more disk."""
    request = AttachDisk(device=device, lun=lun)
    _show(ask_agent(api, asking, lambda client: client.attach_disk(guest, request)), json=json)


def detach(guest: str, lun: int, api: str, asking: Asking, *, release: bool, json: bool) -> None:
    """Have the agent take a disk away from the guest's export."""
    request = DetachDisk(lun=lun, release=release)
    _show(ask_agent(api, asking, lambda client: client.detach_disk(guest, request)), json=json)


def _show(done: PlacementResult, *, json: bool) -> None:
    print(msgspec.json.encode(done).decode() if json else f"{done.text}.")
