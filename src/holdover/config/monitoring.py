"""The sections ``[metrics]`` and ``[log]`` of an agent's file."""

from __future__ import annotations

from typing import Literal

import msgspec


class MetricsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="kebab"):
    """An address of its own for the metrics; the API has them in any case.

    Attributes:
        listen: `HOST:PORT` by plain HTTP, for reading alone: `/metrics`, `/livez`, `/readyz`. Without this
            key the API alone has them.
        allow-remote: Whether that address may be one that other machines reach. Everybody who can connect
            may read.
    """

    listen: str | None = None
    allow_remote: bool = False


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the agent logs, to its standard error or to systemd's journal.

    Attributes:
        level: The least that is logged.
        format: The form of the log. `auto` is `journald` if the standard error goes to systemd's journal,
            else `console`.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json", "journald"] = "auto"


class HistoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the history is kept.

    Attributes:
        keep: The days for which entries are kept.
        most: The most entries that are kept, however new they are.
    """

    keep: int = 90
    most: int = 200_000

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if getattr(self, name) < 1:
                raise ValueError(f"history.{name} must be at least 1")
