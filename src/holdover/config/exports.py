"""The section ``[exports]`` of an agent's file."""

from __future__ import annotations

import msgspec

_MAX_SESSIONS = 65535  # a TSIH has 16 bits (RFC 7143 11.12.6)
_LONGEST_COMMAND = 32  # MiB, the default of `TargetConfig.max_data_out`


class ExportsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """Settings that apply to the iSCSI export of every guest.

    Attributes:
        max-sessions: The most sessions of one export at once, 1 to 65535. Without this key: 256 for each
            device of the guest.
        chap-md5: Whether CHAP accepts MD5. QEMU with libiscsi before 1.20 supports no other algorithm.
        max-memory: MiB of data that the commands under way may hold, in all exports together.
        max-memory-per-guest: The same for one export, from 32 to `max-memory`. A command that finds no room
            waits.
    """

    max_sessions: int | None = None
    chap_md5: bool = True
    max_memory: int = 512
    max_memory_per_guest: int = 128

    def __post_init__(self) -> None:
        if self.max_sessions is not None and not 1 <= self.max_sessions <= _MAX_SESSIONS:
            raise ValueError(f"exports.max-sessions must be 1 to {_MAX_SESSIONS}, not {self.max_sessions}")
        if not _LONGEST_COMMAND <= self.max_memory_per_guest <= self.max_memory:
            raise ValueError(
                f"exports.max-memory-per-guest must be from the longest command, {_LONGEST_COMMAND} (MiB), "
                f"to max-memory, {self.max_memory}; not {self.max_memory_per_guest}"
            )
