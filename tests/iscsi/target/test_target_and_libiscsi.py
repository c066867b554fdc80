"""Our target with libiscsi's programs and with QEMU's driver: header digests, CHAP in both directions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from holdover.iscsi.chap import ChapCredentials
from holdover.iscsi.digest import Digest
from holdover.iscsi.negotiation import NegotiationLimits, Parameters
from holdover.iscsi.target.target import IscsiTarget, SessionChange
from holdover.lun.embedded import EmbeddedLun
from holdover.lun.options import LunOptions
from tests.iscsi.pair import TARGET

pytestmark = pytest.mark.peer("libiscsi-bin")

ANNA, DISK = ChapCredentials("anna", "annassecretword"), ChapCredentials("disk", "thedisksecretword")


class Watched:
    """A target over a file, and what was negotiated with it."""

    def __init__(
        self, folder: Path, credentials: ChapCredentials | None, limits: NegotiationLimits | None
    ) -> None:
        self.lun = EmbeddedLun.open(LunOptions(folder / "disk", 1 << 20))
        self.target = IscsiTarget(
            TARGET,
            {0: self.lun},
            credentials=credentials,
            chap_md5=True,  # libiscsi before 1.20 has nothing stronger
            mutual_credentials=None if credentials is None else DISK,
            limits=limits,
            on_session=self.note,
        )
        self.port = 0
        self.negotiated: list[Parameters] = []

    def note(self, change: SessionChange) -> None:
        if change.ended is None:
            self.negotiated.append(change.session.parameters)


@contextlib.asynccontextmanager
async def watched(
    folder: Path, credentials: ChapCredentials | None = None, limits: NegotiationLimits | None = None
) -> AsyncIterator[Watched]:
    here = Watched(folder, credentials, limits)
    here.port = await here.target.start("127.0.0.1", 0)
    try:
        yield here
    finally:
        await here.target.close()
        await here.lun.close()


async def program(*command: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 600)
    return process.returncode, output.decode()


@pytest.mark.parametrize("ours", [(Digest.NONE, Digest.CRC32C), (Digest.CRC32C,)])
def test_header_digests(ours: tuple[Digest, ...], tmp_path: Path) -> None:
    """iscsi-inq offers None and CRC32C, whatever its URL says."""

    async def test() -> None:
        async with watched(tmp_path, limits=NegotiationLimits(header_digests=ours)) as here:
            status, said = await program("iscsi-inq", f"iscsi://127.0.0.1:{here.port}/{TARGET}/0")
            assert status == 0, said
            assert "DIRECT_ACCESS" in said
            assert [each.header_digest for each in here.negotiated] == [ours[0]]

    asyncio.run(test())


@pytest.mark.peer("qemu-utils", "qemu-block-extra")
def test_a_copy_by_qemu_with_header_digests(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(random.Random(7).randbytes(1 << 20))

    async def test() -> None:
        async with watched(tmp_path) as here:
            portal = f"127.0.0.1:{here.port}"
            disk = f"driver=iscsi,transport=tcp,portal={portal},target={TARGET},lun=0,header-digest=crc32c"
            options = ["--target-image-opts", "-n", "-f", "raw", str(source), disk]
            status, said = await program("qemu-img", "convert", *options)
            assert status == 0, said
            assert {each.header_digest for each in here.negotiated} == {Digest.CRC32C}

    asyncio.run(test())
    assert (tmp_path / "disk").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("login", "options", "gets_in"),
    [
        ("anna%annassecretword@", "?target_user=disk&target_password=thedisksecretword", True),
        ("anna%annassecretword@", "", True),
        ("anna%annassecretword@", "?target_user=disk&target_password=anotherdisksword", False),
        ("anna%annassecretwort@", "?target_user=disk&target_password=thedisksecretword", False),
        ("", "", False),
    ],
)
def test_chap(login: str, options: str, gets_in: bool, tmp_path: Path) -> None:
    async def test() -> None:
        async with watched(tmp_path, ANNA) as here:
            status, said = await program(
                "iscsi-inq", f"iscsi://{login}127.0.0.1:{here.port}/{TARGET}/0{options}"
            )
            assert ("DIRECT_ACCESS" in said) is gets_in
            assert (status == 0) is gets_in, said

    asyncio.run(test())
