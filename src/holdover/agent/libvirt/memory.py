"""What an agent must not forget of the guests that libvirt runs here: their QEMUs, and what was granted."""

from __future__ import annotations

from pathlib import Path

import msgspec
import structlog

from holdover.agent.state_file import StateFile

log = structlog.get_logger()


class GuestMemory(msgspec.Struct, kw_only=True):
    """One guest.

    Attributes:
        uuid: The guest's UUID, as libvirt says.
        pid, started, boot: The guest's last QEMU: its number, when it began, and the system's boot then.
        stopped: The handover during which libvirt has said that the guest stopped here, and has not said
            since then that the guest goes on; empty if there is none.
        granted: The handover after which the guest was let run here.
        revoked: The handover after which the guest must not be let run here, as its source was told.
    """

    uuid: str = ""
    pid: int = 0
    started: float = 0.0
    boot: str = ""
    stopped: str = ""
    granted: str = ""
    revoked: str = ""


class GuestMemories:
    """The guests by name, in one file that is replaced as a whole."""

    def __init__(self, file: Path) -> None:
        """Read ``file``, if it exists. If it cannot be read, this is logged, and the file is ignored."""
        self._file = StateFile(file)
        self.guests: dict[str, GuestMemory] = {}
        try:
            self.guests = msgspec.json.decode(file.read_bytes(), type=dict[str, GuestMemory])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.error("The record of libvirt's guests cannot be read.", file=str(file), reason=str(error))

    def of(self, guest: str) -> GuestMemory:
        """What is known of a guest; made now if nothing is."""
        return self.guests.setdefault(guest, GuestMemory())

    async def save(self) -> None:
        """Write the file; it is on disk when this returns.

        Raises:
            OSError: It cannot be written.
        """
        await self._file.write(msgspec.json.encode(self.guests))
