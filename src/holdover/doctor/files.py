"""The agent's file, its folder, its sockets and its certificates, as they are on this host."""

from __future__ import annotations

import datetime
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from holdover.config.agent_file import AgentConfig, ConfigError
from holdover.config.two_addresses import warnings_of_file
from holdover.doctor.finding import Finding, ok, unknown, warning, wrong
from holdover.pki.tls import Credentials

_CAP_SYS_RAWIO = 17


def file_checks(config: AgentConfig) -> Iterator[Finding]:
    """Everything that needs no other program."""
    yield from _addresses(config)
    yield from _state_dir(config)
    yield from _rights()
    yield from _sockets(config)
    yield from _certificates(config)


def _addresses(config: AgentConfig) -> Iterator[Finding]:
    found = warnings_of_file(config)
    for text in found:
        yield warning("addresses", text, "write the drives with one address; holdover explain two-addresses")
    if not found:
        yield ok("addresses", "each guest names each iSCSI target by one address")


def _state_dir(config: AgentConfig) -> Iterator[Finding]:
    folder = Path(config.state_dir)
    try:
        mode = stat.S_IMODE(folder.stat().st_mode)
    except OSError as error:
        yield wrong("state-dir", f"{folder}: {error.strerror}", f"mkdir -m 700 {folder}, or start the agent")
        return
    if mode & 0o077:
        yield warning(
            "state-dir", f"{folder} has mode {mode:04o}: others may look into it", f"chmod 700 {folder}"
        )
    elif not os.access(folder, os.W_OK):
        yield wrong(
            "state-dir", f"{folder} cannot be written to", "run the agent as root (docs/how-to/service.md)"
        )
    else:
        yield ok("state-dir", f"{folder} is there, for its owner alone")
    journal = config.journal_file
    try:
        is_open = bool(stat.S_IMODE(journal.stat().st_mode) & 0o077)
    except OSError as error:
        yield unknown("journal", f"{journal}: {error.strerror}", "start the agent, which makes it")
        return
    if is_open:
        yield warning("journal", f"{journal} may be read by others", f"chmod 600 {journal}")
    else:
        yield ok("journal", f"{journal} is there; holdover journal check {journal} reads all of it")


def _rights() -> Iterator[Finding]:
    status = Path("/proc/self/status").read_text("utf-8")
    effective = int(status.partition("CapEff:")[2].split(maxsplit=1)[0], 16)
    if os.geteuid() == 0 and effective >> _CAP_SYS_RAWIO & 1:
        yield ok("rights", "this user is root and has CAP_SYS_RAWIO, which disks of the host need")
    else:
        yield unknown(
            "rights", "this user may not send commands to disks of the host", "run holdover doctor as root"
        )


def _sockets(config: AgentConfig) -> Iterator[Finding]:
    helpers = [] if config.helper is None or config.helper.socket is None else [config.helper.socket]
    helpers += [guest.helper for guest in config.guest if guest.helper is not None]
    for path in helpers:
        yield _listens(path)


def _listens(path: str) -> Finding:
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.settimeout(5)
            made.connect(path)
    except OSError as error:
        todo = "start the agent: systemctl start holdover-agent"
        return wrong("sockets", f"{path}: {error.strerror or error}: guests do not reach the helper", todo)
    return ok("sockets", f"the helper listens at {path}")


def _certificates(config: AgentConfig) -> Iterator[Finding]:
    try:
        credentials = Credentials.of(config.api)
    except ConfigError as error:
        yield wrong("certificates", str(error), "holdover ca issue (docs/how-to/certificates.md)")
        return
    if credentials is None:
        yield ok("certificates", "none are configured: operators of this machine alone may ask the agent")
        return
    if credentials.name != config.name:
        todo = f'write name = "{credentials.name}", or holdover ca issue {config.name}'
        yield wrong("certificates", f"the certificate names {credentials.name}, not {config.name}", todo)
    now = datetime.datetime.now(datetime.UTC)
    warnings = credentials.warnings(now)
    over = any(end <= now for _, _, end in credentials.ends())
    for text in warnings:
        make = wrong if over else warning
        yield make("certificates", text, "holdover ca issue, then systemctl reload holdover-agent")
    if not warnings:
        first = min(end for _, _, end in credentials.ends())
        yield ok("certificates", f"the first one ends on {first:%Y-%m-%d}")
    key = Path(config.api.key or "")
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        yield warning("certificates", f"the key {key} may be read by others", f"chmod 600 {key}")
