"""The API's sockets: who gets in, and that those who do not disturb nobody."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import structlog

from holdover.admission.turns_to_begin import Rates
from holdover.api import listening
from holdover.api.client import AgentClient, AgentError, AgentRefused
from holdover.config.agent_file import ConfigError
from holdover.pki.tls import ClientTls, TlsFiles
from tests.agent.certified import Authority, running, secured, within


@asynccontextmanager
async def agent(authority: Authority, files: TlsFiles | None = None) -> AsyncGenerator[str, None]:
    config = secured(files or authority.issue("host-a"))
    async with running(config):
        yield str(config.api.addresses[0])


async def ask(api: str, tls: ClientTls | None) -> str:
    """The host's name, or why it does not tell."""
    client = AgentClient(api, timeout=600, tls=tls)
    try:
        return (await client.guests()).host
    except AgentError as error:
        return str(error)
    finally:
        await client.close()


def context(ca: Path, files: TlsFiles | None = None, newest: ssl.TLSVersion | None = None) -> ClientTls:
    """A client that trusts ``ca``, and shows another authority's certificate or none."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(ca)
    if files is not None:
        made.load_cert_chain(files.certificate, files.key)
    if newest is not None:
        made.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        made.maximum_version = newest
        made.set_ciphers("ALL:@SECLEVEL=0")
    return ClientTls(made)


def test_an_operator_may_ask_and_a_stranger_is_told_what_to_add(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        async with agent(authority) as api:
            assert await ask(api, authority.client("admin-1")) == "host-a"
            assert await ask(f"https://{api}", authority.client("admin-1", "host-a")) == "host-a"
            assert 'operators = ["admin-2"] under [api]' in await ask(api, authority.client("admin-2"))

    within(600, test)


def test_a_peer_may_look_and_not_act(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        async with agent(authority) as api:
            client = AgentClient(api, tls=authority.client("host-b", "host-a"))
            assert (await client.guests()).host == "host-a"
            with pytest.raises(AgentRefused, match="no guest 'db1'"):
                await client.guest("db1")
            with pytest.raises(AgentRefused, match="the certificate names 'host-b', which is no operator"):
                await client.commit("db1", "h")
            await client.close()

    within(600, test)


def test_certificates_that_are_not_good(tmp_path: Path) -> None:
    async def test() -> None:
        authority, other = Authority.make(tmp_path / "ca"), Authority.make(tmp_path / "other")
        ca = tmp_path / "ca" / "ca.crt"
        refused = "it refuses our certificate"
        async with agent(authority) as api:
            good = authority.client("admin-1")
            assert refused in await ask(api, context(ca))
            assert refused in await ask(api, context(ca, newest=ssl.TLSVersion.TLSv1_2))
            assert refused in await ask(api, context(ca, other.issue("admin-1")))
            assert refused in await ask(api, authority.client("admin-1", days=5, age=10))
            assert "its certificate is refused (self-signed" in await ask(api, other.client("admin-1"))
            elsewhere = ClientTls(good.context, "host-b")
            assert "certificate is not valid for 'host-b'" in await ask(api, elsewhere)
            assert await ask(api, good) == "host-a"
        async with agent(authority, authority.issue("host-a", days=5, age=10)) as api:
            assert "its certificate is refused (certificate has expired)" in await ask(api, good)

    within(600, test)


def test_the_log_says_who_does_not_get_in(tmp_path: Path) -> None:
    async def test() -> None:
        authority, other = Authority.make(tmp_path / "ca"), Authority.make(tmp_path / "other")
        ca = tmp_path / "ca" / "ca.crt"
        async with agent(authority) as api:
            with structlog.testing.capture_logs() as told:
                await ask(api, authority.client("admin-1"))
                await ask(api, authority.client("admin-1", days=5, age=10))
                await ask(api, context(ca, other.issue("admin-1")))
                await ask(api, context(ca))
            # a GET is asked a second time, once, where the connection is closed upon it
            assert list(
                dict.fromkeys(
                    each["reason"]
                    for each in told
                    if each["event"] == "The TLS handshake with a client failed."
                )
            ) == [
                "its certificate: certificate has expired",
                "its certificate: unable to get local issuer certificate",
                "PEER_DID_NOT_RETURN_A_CERTIFICATE",
            ]

    within(600, test)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_tls_before_1_2_is_refused(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        files, ca = authority.issue("admin-1"), tmp_path / "ca.crt"
        async with agent(authority) as api:
            for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
                assert await ask(api, context(ca, files, newest)) == "host-a"
            old = context(ca, files, ssl.TLSVersion.TLSv1_1)
            assert "it speaks no version of TLS that we do" in await ask(api, old)

    within(600, test)


def test_silence_and_garbage_disturb_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_HANDSHAKE_SECONDS", 0.5)
    # Here the operator is of the same party as the others; tests of the rates are in tests/security.
    wide = Rates(burst=1000, seconds=0.001, burst_each=1000, seconds_each=0.001)
    monkeypatch.setattr(listening, "HANDSHAKES", wide)

    async def test() -> None:
        authority = Authority.make(tmp_path)
        async with agent(authority) as api:
            host, _, port = api.rpartition(":")
            operator = AgentClient(api, tls=authority.client("admin-1"))
            streams = []
            hello = bytes.fromhex(
                "16030100ff010000fb0303"
            )  # the head of a ClientHello, whose rest never comes
            for sent in (
                b"",
                hello,
                b"GET / HTTP/1.1\r\n\r\n",
                os.urandom(4096),
                b"\x16\x03\x01\xff\xff" * 99,
            ):
                for _ in range(20):
                    streams.append(await asyncio.open_connection(host, int(port)))
                    streams[-1][1].write(sent)
                assert (await operator.guests()).host == "host-a"
            assert await ask(api, authority.client("admin-1")) == "host-a"
            for reader, writer in streams:
                with contextlib.suppress(ConnectionError):
                    await reader.read()  # until the agent closes
                writer.close()
            await operator.close()

    within(600, test)


def test_the_socket_is_for_its_owner_and_asks_nobody_who_they_are(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path / "ca")
        path = tmp_path / "api.sock"
        config = secured(authority.issue("host-a"), also=f"unix:{path}")
        async with running(config):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert await ask(f"unix:{path}", None) == "host-a"
            assert await ask(str(config.api.addresses[0]), authority.client("admin-1")) == "host-a"
        assert not path.exists()
        wider = msgspec.structs.replace(config, api=msgspec.structs.replace(config.api, mode="0660"))
        async with running(wider):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660

    within(600, test)


def test_there_is_no_plain_tcp_on_loopback_either(tmp_path: Path) -> None:
    async def test() -> None:
        config = secured(Authority.make(tmp_path).issue("host-a"))
        https = str(config.api.addresses[0])
        plain = msgspec.structs.replace(config, api=type(config.api)(listen=https), peer=())
        with pytest.raises(ConfigError, match=r"api.listen: .*needs api.certificate"):
            async with running(plain):
                pass

    within(600, test)


async def shown(api: str, ca: Path, files: TlsFiles) -> bytes:
    """The certificate that the agent shows to a new connection."""
    host, _, port = api.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context(ca, files).context)
    certificate: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return certificate


def test_renewed_certificates_are_taken_on_sighup(tmp_path: Path) -> None:
    async def test() -> None:
        authority = Authority.make(tmp_path)
        ca, admin = tmp_path / "ca.crt", authority.issue("admin-1")
        async with agent(authority, authority.issue("host-a", days=5)) as api:
            open_before = AgentClient(api, tls=context(ca, admin))
            (warning,) = (await open_before.guests()).warnings
            assert "the certificate of host-a" in warning
            before = await shown(api, ca, admin)
            authority.issue("host-a")
            assert await shown(api, ca, admin) == before
            os.kill(os.getpid(), signal.SIGHUP)
            while (after := await shown(api, ca, admin)) == before:
                pass
            assert (await open_before.guests()).warnings == ()
            # a certificate that is not the key's, as where only one of the two was brought
            (tmp_path / "host-a.crt").write_bytes((tmp_path / "admin-1.crt").read_bytes())
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.sleep(0.1)
            assert await shown(api, ca, admin) == after
            await open_before.close()

    within(600, test)


def test_a_certificate_of_another_name_is_refused_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        with pytest.raises(ConfigError, match=r"names 'host-z', and this host is 'host-a'.*ca issue host-a"):
            async with running(secured(Authority.make(tmp_path).issue("host-z"))):
                pass

    within(600, test)


def test_an_agent_without_a_journal_section_keeps_one_in_its_state_dir(tmp_path: Path) -> None:
    async def test() -> None:
        config = msgspec.structs.replace(
            secured(Authority.make(tmp_path).issue("host-a")), state_dir=str(tmp_path / "state")
        )
        async with running(config, journal=None):
            assert (tmp_path / "state" / "journal").is_file()
            assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700

    asyncio.run(test())


def test_a_state_dir_that_cannot_be_made_is_named_with_what_to_do(tmp_path: Path) -> None:
    async def test() -> None:
        (tmp_path / "file").write_text("")
        config = msgspec.structs.replace(
            secured(Authority.make(tmp_path).issue("host-a")), state_dir=str(tmp_path / "file" / "state")
        )
        with pytest.raises(ConfigError, match=r"cannot be kept in .*; set state-dir .* or give --ephemeral"):
            async with running(config, journal=None):
                pass

    asyncio.run(test())
