"""Our initiator against tgt: digests, CHAP in both directions."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdover.demo.processes import free_port
from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.digest import Digest
from holdover.iscsi.errors import LoginError
from holdover.iscsi.initiator.initiator import IscsiInitiator
from holdover.iscsi.negotiation import NegotiationLimits
from tests.iscsi.pair import INITIATOR, ISID, TARGET
from tests.iscsi.ram import read, write

pytestmark = pytest.mark.peer("tgt")

ANNA, DISK = ChapCredentials("anna", "annassecretword"), ChapCredentials("disk", "thedisksecretword")


def admin(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["tgtadm", "-C", str(port), "--lld", "iscsi", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A tgt of our own, with one LUN, number 1, that asks for CHAP both ways."""
    disk: Path = tmp_path_factory.mktemp("tgt") / "disk"
    disk.write_bytes(bytes(1 << 20))
    port = free_port()
    process = subprocess.Popen(["tgtd", "-f", "-C", str(port), "--iscsi", f"portal=127.0.0.1:{port}"])
    try:
        deadline = time.monotonic() + 600
        while admin(port, "--mode", "target", "--op", "show").returncode:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for words in (
            f"target --op new --tid 1 --targetname {TARGET}",
            f"logicalunit --op new --tid 1 --lun 1 --backing-store {disk}",
            "target --op bind --tid 1 --initiator-address ALL",
            "target --op update --tid 1 --name HeaderDigest --value CRC32C,None",
            "target --op update --tid 1 --name DataDigest --value CRC32C,None",
            f"account --op new --user anna --password {ANNA.secret}",
            "account --op bind --tid 1 --user anna",
            f"account --op new --user disk --password {DISK.secret}",
            "account --op bind --tid 1 --user disk --outgoing",
        ):
            done = admin(port, "--mode", *words.split())
            assert done.returncode == 0, done.stderr
        yield port
    finally:
        # It goes on as long as anything is logged in.
        process.kill()
        process.wait(600)


def connect(port: int, disk: ChapCredentials | None = DISK, limits: NegotiationLimits | None = None) -> str:
    """Log in, write and read back; tell which digests there were."""

    async def session() -> str:
        initiator = await IscsiInitiator.connect(
            "127.0.0.1",
            port,
            TARGET,
            INITIATOR,
            ISID,
            user="anna",
            password=ANNA.secret,
            target_user=None if disk is None else disk.user,
            target_password=None if disk is None else disk.secret,
            limits=limits,
            ping_interval=None,
        )
        data = bytes(range(256)) * 200
        for _ in range(3):
            # the first may meet the unit attention of a new nexus
            answer = await initiator.execute(1, write(3, data))
            if answer.good:
                break
        assert answer.good
        assert (await initiator.execute(1, read(3, 100))).data_in == data
        parameters = initiator.parameters
        await initiator.close()
        return f"{parameters.header_digest} {parameters.data_digest}"

    return asyncio.run(session())


def test_mutual_chap(port: int) -> None:
    connect(port)
    connect(port, None)
    with pytest.raises(LoginError, match="its own CHAP user or secret"):
        connect(port, ChapCredentials("disk", "another word"))


@pytest.mark.parametrize("header", Digest)
@pytest.mark.parametrize("data", Digest)
def test_digests(port: int, header: Digest, data: Digest) -> None:
    limits = NegotiationLimits(
        header_digests=(header,), data_digests=(data,), max_recv_data_segment_length=8192
    )
    assert connect(port, limits=limits) == f"{header} {data}"
