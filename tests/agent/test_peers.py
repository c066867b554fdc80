"""Peers: whom an agent knows, and how it asks them."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdover.agent.client import AgentError
from holdover.agent.config import PeerConfig
from holdover.agent.peers import Peers, UnknownPeer
from holdover.agent.tls import Credentials
from tests.agent.certified import Authority, running, secured, within


def peers_of(authority: Authority | None, name: str, api: str) -> Peers:
    credentials = None if authority is None else Credentials(authority.issue("host-b"))
    return Peers("host-b", [PeerConfig(name=name, api=api)], credentials)


def test_who_may_hand_over() -> None:
    peers = peers_of(None, "host-a", "127.0.0.1:1")
    assert [peers.may_hand_over(name) for name in (None, "host-a", "host-b", "")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(UnknownPeer, match=r'host-b has no peer \'host-c\'; it has: host-a.*name = "host-c"'):
        peers.client("host-c")


def test_a_peer_is_asked_by_the_name_in_its_certificate(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        config = secured(authority.issue("host-a"), also=f"unix:{tmp_path}/api.sock")
        https, plain = (str(each) for each in config.api.addresses)
        async with running(config):
            peers = peers_of(authority, "host-a", https)
            assert (await peers.client("host-a").guests()).host == "host-a"
            assert peers.client("host-a") is peers.client("host-a")
            await peers.close()
            wrong = peers_of(authority, "host-c", https)
            with pytest.raises(AgentError, match="certificate is not valid for 'host-c'"):
                await wrong.client("host-c").guests()
            await wrong.close()
            local = peers_of(None, "host-a", plain)
            assert (await local.client("host-a").guests()).host == "host-a"
            await local.close()

    within(60, test)
