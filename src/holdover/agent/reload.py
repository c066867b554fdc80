"""What an agent takes from a changed configuration while it runs, and what waits for a restart.

Each key is in one of two lists. `merge` is pure and returns what is in force after a reload. `Reload` reads
the file and the certificates. If one of them cannot be used, it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import structlog

from holdover.agent.host import Host
from holdover.config.agent_file import AgentConfig, ApiConfig, ConfigError, GuestConfig, check_config
from holdover.pki.tls import Credentials
from holdover.service.notify import ServiceManager

log = structlog.get_logger()

LIVE = frozenset(
    {"api.operators", "api.readers", "early_commit", "limits", "migration", "peer", "qmp", "rule"}
)
"""The keys that are taken at once; limits and early-commit apply to handovers and connections that begin
later, rules to disks that appear later."""

RESTART = frozenset(
    {
        "name",
        "initiator",
        "state_dir",
        "api.listen",
        "api.certificate",
        "api.key",
        "api.ca",
        "api.mode",
        "api.group",
        "guest",
        "exports",
        "helper",
        "history",
        "journal",
        "libvirt",
        "log",
        "metrics",
    }
)
"""The keys that only a restart takes. A reload reads the contents of certificate files again."""

LIVE_OF_GUESTS = frozenset({"devices"})
"""The keys of ``guest`` that are taken at once, if the guest has an export and nothing else of it changes."""


@dataclass(frozen=True, slots=True)
class Merged:
    """The configuration in force after a reload; ``taken`` and ``waiting`` are the keys that have changed."""

    config: AgentConfig
    taken: tuple[str, ...]
    waiting: tuple[str, ...]


def merge(running: AgentConfig, wanted: AgentConfig) -> Merged:
    """The part of ``wanted`` that can be in force while an agent runs with ``running``."""
    changed = _changed(running, wanted)
    taken = tuple(key for key in changed if key in LIVE)
    top = {key: getattr(wanted, key) for key in taken if "." not in key}
    of_api = {
        key.removeprefix("api."): getattr(wanted.api, key.removeprefix("api.")) for key in taken if "." in key
    }
    api = msgspec.structs.replace(running.api, **of_api)
    guests = _guests(running.guest, wanted.guest)
    config = msgspec.structs.replace(running, api=api, guest=guests, **top)
    if guests != running.guest:
        taken = (*taken, "guest.devices")
    followed = {"guest"} if guests == wanted.guest else set()
    return Merged(config, taken, tuple(key for key in changed if key not in LIVE | followed))


def _guests(running: tuple[GuestConfig, ...], wanted: tuple[GuestConfig, ...]) -> tuple[GuestConfig, ...]:
    """The running guests. Those of which only keys in `LIVE_OF_GUESTS` change are as wanted."""
    by_name = {guest.name: guest for guest in wanted}

    def in_force(guest: GuestConfig) -> GuestConfig:
        other = by_name.get(guest.name, guest)
        live = {key: getattr(other, key) for key in LIVE_OF_GUESTS}
        same = msgspec.structs.replace(guest, **live) == other
        return other if same and guest.export is not None else guest

    return tuple(in_force(guest) for guest in running)


def _changed(running: AgentConfig, wanted: AgentConfig) -> list[str]:
    top = [key for key in AgentConfig.__struct_fields__ if key != "api"]
    changed = [key for key in top if getattr(running, key) != getattr(wanted, key)]
    of_api = [
        key for key in ApiConfig.__struct_fields__ if getattr(running.api, key) != getattr(wanted.api, key)
    ]
    return changed + [f"api.{key}" for key in of_api]


class Reload:
    """What reads the configuration and the certificates of a host again."""

    def __init__(
        self,
        host: Host,
        credentials: Credentials | None,
        reread: Callable[[], AgentConfig] | None,
        manager: ServiceManager | None = None,
    ) -> None:
        """``reread`` returns the configuration as its file has it now; None if there is no file. ``manager``
        is told that the agent reloads.
        """
        self._manager = manager or ServiceManager(None)
        self._host = host
        self._credentials = credentials
        self._reread = reread

    def now(self) -> None:
        """Take the changes that can be taken and log them; if anything is wrong, log that and take
        nothing."""
        self._manager.reloading()
        try:
            self._take()
        finally:
            self._manager.ready(f"{len(self._host.guests)} guests")

    def _take(self) -> None:
        running = self._host.config
        try:
            wanted = running if self._reread is None else self._reread()
            merged = merge(running, wanted)
            check_config(merged.config, "the configuration without what waits for a restart")
            if self._credentials is not None:
                self._credentials.reload()
        except ConfigError as error:
            log.error(
                "Configuration and certificates stay as they are, because the new ones cannot be used.",
                reason=str(error),
            )
            return
        self._host.reconfigure(merged.config)
        log.info(
            "Configuration and certificates were read again.",
            file="none, options of the command line" if self._reread is None else "read",
            certificates="none" if self._credentials is None else f"of {self._credentials.name}",
            changed=", ".join(merged.taken).replace("_", "-") or "nothing",
        )
        if merged.waiting:
            log.warning(
                "Some changes of the configuration wait for a restart of the agent.",
                keys=", ".join(merged.waiting).replace("_", "-"),
            )
