"""The front end of a guest's export: nobody comes in who does not have the guest's secret."""

from __future__ import annotations

import asyncio
import json
import logging
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from holdover.agent.guests.chap_secrets import ChapSecrets
from holdover.config.agent_file import ConfigError, ExportsConfig, check_config
from holdover.iscsi.chap import MD5
from holdover.iscsi.requests import LoginRequest
from holdover.iscsi.text import encode_text
from holdover.iscsi.url import parse_iscsi_url
from holdover.scsi.path import PathError
from tests.agent.hosts import GUEST, READ, San, san
from tests.security.local_user import needs_root, open_folder, program_of

ATTACK = """
said = []
for login in json.loads(sys.argv[2]):
    client = socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=600)
    client.sendall(bytes.fromhex(login))
    answer = client.recv(48)
    said.append(answer[36:38].hex() if len(answer) == 48 else "hung up")
try:
    said.append(open(sys.argv[3], "rb").read().hex())
except OSError as error:
    said.append(type(error).__name__)
print(json.dumps(said), flush=True)
"""


def logins(target: str) -> list[str]:
    """Ways in that do not show the secret: without a word of it, by refusing CHAP, by passing it by."""
    who = [("InitiatorName", "iqn.2026-11.org.example:qemu"), ("TargetName", target)]
    tries = [
        (1, who),
        (0, [*who, ("AuthMethod", "None")]),
        (0, [*who, ("AuthMethod", "CHAP"), ("CHAP_R", "0x00")]),
    ]
    found = []
    for stage, pairs in tries:
        text = encode_text(pairs)
        pdu = LoginRequest(0, bytes([0x80, 0, 0, 0, 0, 1]), 0, stage, 3, True, text, cmd_sn=1)
        found.append(b"".join(pdu.encode()).hex())
    return found


@needs_root
def test_another_user_of_the_host_does_not_get_in() -> None:
    with open_folder() as folder:

        async def test() -> None:
            async with san(folder, hosts=("host-a",), migrate_pr=("on",)) as site:
                url = parse_iscsi_url(site.export("host-a"))
                secret = ChapSecrets(folder / "host-a.state").file(GUEST)
                arguments = (str(url.port), json.dumps(logins(url.iqn)), str(secret))
                with program_of(ATTACK, *arguments) as process:
                    assert process.stdout is not None
                    said = json.loads(await asyncio.to_thread(process.stdout.readline))
                # 0201: authentication failure
                assert said == ["0201", "0201", "0201", "PermissionError"]
                await site.guest_on("host-a").must(READ)

        asyncio.run(test())


async def refused(site: San, name: str, url: str, problem: str) -> None:
    with pytest.raises(PathError, match=problem):
        await site.initiator(name, url).path.execute(READ)


def test_a_wrong_secret_and_another_guests_name_do_not_get_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as site:
            right = parse_iscsi_url(site.export("host-a"))
            for number, wrong in enumerate((replace(right, password="x" * 16), replace(right, user="db2"))):
                await refused(site, f"guess{number}", wrong.secret_url, "authentication failure")
            await site.guest_on("host-a").must(READ)

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    # one line now and then, however many guess
    (record,) = [each for each in caplog.records if "refuses" in each.message]
    assert "CHAP user or secret is wrong" in record.message
    assert "x" * 16 not in caplog.text


@pytest.mark.parametrize(
    ("allow", "problem"),
    [
        ({"export_initiators": ("iqn.2026-11.org.example:qemu",)}, "not allowed in"),
        ({"export_addresses": ("192.0.2.0/24",)}, "connection|closed"),
    ],
)
def test_an_initiator_that_is_not_on_the_list_does_not_get_in_with_the_secret(
    allow: dict[str, tuple[str, ...]], problem: str, tmp_path: Path
) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",), guest=allow) as site:
            await refused(site, "stranger", site.export("host-a"), problem)
            if "export_initiators" in allow:
                await site.guest_on("host-a").must(READ)

    asyncio.run(test())


def test_md5_is_refused_where_the_configuration_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdover.iscsi.initiator.login._CHAP_OFFER", MD5)

    async def test(*, md5: bool) -> None:
        exports = ExportsConfig(chap_md5=md5)
        async with san(tmp_path / str(md5), hosts=("host-a",), migrate_pr=("on",), exports=exports) as site:
            if md5:
                await site.guest_on("host-a").must(READ)
            else:
                await refused(site, "qemu", site.export("host-a"), "authentication failure")

    for md5 in (True, False):
        (tmp_path / str(md5)).mkdir()
        asyncio.run(test(md5=md5))


def test_without_chap_only_on_loopback_and_with_a_warning(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",), guest={"export_open": True}) as site:
            host = site.hosts["host-a"]
            await site.initiator("anybody", f"{host.guests[GUEST].export}/0").must(READ)
            (warning,) = (await site.clients["host-a"].guests()).warnings
            assert (
                "guest db1: export-open: every process of this host can read and write its disks" in warning
            )
            assert not ChapSecrets(tmp_path / "host-a.state").file(GUEST).exists()
            config = site.configs["host-a"]
            (guest,) = config.guest
            wide = msgspec.structs.replace(guest, export="0.0.0.0:3261")
            with pytest.raises(
                ConfigError, match=r"guest db1: export-open: 0\.0\.0\.0:3261 can be reached from other"
            ):
                check_config(msgspec.structs.replace(config, guest=(wide,)), "agent.toml")

    asyncio.run(test())


def test_the_secret_outlives_the_agent_and_is_for_its_user_alone(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, hosts=("host-a",), migrate_pr=("on",)) as site:
            before = site.export("host-a")
            file = ChapSecrets(tmp_path / "host-a.state").file(GUEST)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
            await site.stop("host-a")
            await site.start("host-a")
            assert site.export("host-a") == before

    asyncio.run(test())
