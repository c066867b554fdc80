"""Commands that are typed into a guest at its serial line, and what the guest says."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdover.demo.machines.console import CommandResult, Console
from holdover.demo.machines.image import READY

_BOOT, _HANG = 900.0, 600.0


def typed(line: Path, command: str, *, boots: bool = False) -> CommandResult:
    """A command in the guest whose QEMU serves the serial line at the socket ``line``.

    ``boots``: the guest boots, and its shell does not answer yet.

    Raises:
        ConsoleError: The guest has not answered.
    """

    async def run() -> CommandResult:
        console = await Console.connect(line)
        try:
            if boots:
                await console.wait_for(READY, _BOOT)
            return await console.run(command, timeout=_HANG)
        finally:
            await console.close()

    return asyncio.run(run())


def output_of(line: Path, command: str, *, boots: bool = False) -> str:
    """What the same command has written; it has to succeed."""
    result = typed(line, command, boots=boots)
    assert result.status == 0, f"{command}: {result.output}"
    return result.output


def said(result: CommandResult) -> str:
    """What a command has written, after its status where that is not 0."""
    return result.output if result.status == 0 else f"status {result.status}: {result.output}"
