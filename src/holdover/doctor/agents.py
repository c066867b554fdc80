"""What the agent of this host says of itself, and whether the peer hosts answer and agree on the time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.documents import HostState
from holdover.api.peer_hosts import Peers
from holdover.api.version import API_VERSION, refusal_of_version
from holdover.config.agent_file import AgentConfig, ConfigError
from holdover.doctor.finding import Finding, ok, unknown, warning, wrong
from holdover.pki.tls import Credentials

_SKEW_SECONDS = 2.0
_LIMIT_SECONDS = 10.0


async def agent_checks(config: AgentConfig) -> tuple[list[Finding], HostState | None]:
    """What the agent says at its Unix socket, and its guests; None if it does not answer."""
    api = next((str(each) for each in config.api.addresses if isinstance(each.where, Path)), None)
    if api is None:
        todo = 'add "unix:/run/holdover/api.sock" to listen in [api]'
        return [unknown("agent", "the agent has no Unix socket at which an operator may ask it", todo)], None
    client = AgentClient(api, timeout=_LIMIT_SECONDS)
    try:
        ready, state = await client.ready(), await client.guests()
    except AgentError as error:
        return [
            wrong("agent", str(error), "systemctl status holdover-agent; journalctl -u holdover-agent")
        ], None
    finally:
        await client.close()
    found = [ok("agent", f"{state.host} answers at {api}, Holdover {state.version}, API {state.api}")]
    found += [
        ok("agent", f"{part.name} is ready")
        if part.ready
        else wrong("agent", f"{part.name} is not ready: {part.problem}", "holdover status")
        for part in ready.parts
    ]
    found += [warning("agent", text, "") for text in state.warnings]
    found += [
        warning("agent", f"guest {guest.name}, LUN {each.designator or each.drive}: {each.report}", "")
        for guest in state.guests
        for each in guest.devices
        if each.report
    ]
    return found, state


async def peer_checks(config: AgentConfig) -> Sequence[Finding]:
    """Ask every peer as this host's agent does."""
    if not config.peer:
        return [ok("peers", "no [[peer]] is configured: guests are not handed over")]
    try:
        credentials = Credentials.of(config.api)
    except ConfigError:
        return [unknown("peers", "this host's certificate cannot be used", "see certificates")]
    peers = Peers(config.name, config.peer, credentials)
    try:
        return await asyncio.gather(*(_ask(config.name, peers, each.name) for each in config.peer))
    finally:
        await peers.close()


async def _ask(here: str, peers: Peers, name: str) -> Finding:
    began = time.time()
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            answer = await peers.client(name).peer_state("-")
    except AgentRefused as error:
        return wrong(
            "peers", f"{name} answers, and refuses this host: {error}", "add this host as a [[peer]] there"
        )
    except (AgentError, ConfigError, TimeoutError) as error:
        why = str(error) or f"no answer within {_LIMIT_SECONDS:g} s"
        return wrong("peers", f"{name}: {why}", "if that host is dead: docs/how-to/handover.md")
    refused = refusal_of_version(here, API_VERSION, name, answer.version)
    if refused is not None:
        return wrong("peers", refused, "upgrade the older one of the two")
    skew = answer.clock - (began + time.time()) / 2 if answer.clock else 0.0
    if abs(skew) > _SKEW_SECONDS:
        return warning(
            "clocks", f"the clock of {name} is {skew:+.1f} s from this host's", "look at chrony or timesyncd"
        )
    return ok("peers", f"{name} answers, and its clock agrees within {_SKEW_SECONDS:g} s")
