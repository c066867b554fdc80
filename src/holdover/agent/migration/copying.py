"""Watches the copy of a guest's memory, and carries out requested changes at the right time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from holdover.api.migration_documents import Memory, MigrationOptions, TimeoutAction
from holdover.qemu.monitor import QemuError
from holdover.qemu.outgoing import CopyProgress, OutgoingQemu, Stage, stage_of

_INTERVAL = 0.25
_FIRST_PASS = 1


def memory_of(progress: CopyProgress) -> Memory | None:
    """How far the copy is, in bytes and bytes per second; None if QEMU does not tell."""
    ram = progress.ram
    if ram is None:
        return None
    return Memory(
        sent=ram.transferred,
        left=ram.remaining,
        total=ram.total,
        rate=ram.mbps * 1e6 / 8,
        dirty_rate=float(ram.dirty_pages_rate * ram.page_size),
        pass_number=ram.dirty_sync_count,
        expected_downtime=progress.expected_downtime,
    )


async def copy_memory(source: OutgoingQemu, options: MigrationOptions, note: Callable[[Memory], None]) -> str:
    """Wait until the guest stands still; returns why it does not, or "".

    Raises:
        QemuError: QEMU cannot be asked.
    """
    watching = asyncio.ensure_future(_watch(source, options, note))
    stopping = asyncio.ensure_future(_stopped(source, options))
    try:
        # with postcopy the guest may never stand still unless the watch switches over
        ends = {stopping, watching} if options.postcopy else {stopping}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if not stopping.done():
            watching.result()
        progress = await stopping
    finally:
        for task in (watching, stopping):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, QemuError):
                await task
    if progress is None:
        return f"the memory was not copied within {options.timeout:g} s (--timeout)"
    if (memory := memory_of(progress)) is not None:
        note(memory)
    if stage_of(progress.status) is Stage.ENDED:
        reason = f": {progress.error_desc}" if progress.error_desc else ""
        return f"{source.monitor.name} ended the migration as {progress.status}{reason}"
    return ""


async def _stopped(source: OutgoingQemu, options: MigrationOptions) -> CopyProgress | None:
    """Wait until the guest stands still, or the migration has ended; None after the time limit."""
    try:
        async with asyncio.timeout(options.timeout):
            return await source.wait_stopped()
    except TimeoutError:
        if options.timeout_action is TimeoutAction.ABORT:
            return None
    await source.stop_guest()
    return await source.wait_stopped()


async def _watch(source: OutgoingQemu, options: MigrationOptions, note: Callable[[Memory], None]) -> None:
    """Note how far the copy is; with postcopy, switch over after the first pass."""
    switched = not options.postcopy
    while True:
        progress = await source.progress()
        memory = memory_of(progress)
        if memory is not None:
            note(memory)
            passed = memory.pass_number > _FIRST_PASS
            if not switched and passed and stage_of(progress.status) is Stage.COPYING:
                await source.start_postcopy()
                switched = True
        await asyncio.sleep(_INTERVAL)
