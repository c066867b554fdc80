"""Peers: whom an agent knows, and how it asks them."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.api.peer_hosts import Peers, UnknownPeer
from holdover.config.agent_file import PeerConfig
from holdover.pki.tls import Credentials
from tests.agent.certified import Authority, running, secured, within


def peers_of(authority: Authority | None, name: str, api: str) -> Peers:
    credentials = None if authority is None else Credentials(authority.issue("host-b"))
    return Peers("host-b", [PeerConfig(name=name, api=api)], credentials)


def test_who_is_no_peer_is_named_with_what_to_add() -> None:
    peers = peers_of(None, "host-a", "127.0.0.1:1")
    with pytest.raises(UnknownPeer, match=r'host-b has no peer \'host-c\'; it has: host-a.*name = "host-c"'):
        peers.client("host-c")


def test_a_peer_is_asked_by_the_name_in_its_certificate(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        config = secured(authority.issue("host-a"), also=f"unix:{tmp_path}/api.sock")
        https, unix = (str(each) for each in config.api.addresses)
        async with running(config):
            peers = peers_of(authority, "host-a", https)
            client = peers.client("host-a")
            assert isinstance(client, AgentClient)
            assert (await client.guests()).host == "host-a"
            assert peers.client("host-a") is peers.client("host-a")
            await peers.close()
            wrong = peers_of(authority, "host-c", https)
            with pytest.raises(AgentError, match="certificate is not valid for 'host-c'"):
                await wrong.client("host-c").peer_state("h")
            await wrong.close()
            # an operator's front end answers no peer
            local = peers_of(None, "host-a", unix)
            with pytest.raises(AgentRefused, match="with its certificate over TCP"):
                await local.client("host-a").peer_state("h")
            await local.close()

    within(600, test)
