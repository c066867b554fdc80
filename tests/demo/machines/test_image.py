from __future__ import annotations

import asyncio
import stat
import subprocess
from pathlib import Path

import pytest

from holdover.demo.machines import image
from holdover.demo.machines.image import READY, ImageError, cache_folder, guest_image, missing_packages
from holdover.demo.machines.process import QemuProcess, VirtualMachine


def test_missing_programs_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None if program in {"busybox", "sg_inq"} else "/x")
    assert missing_packages() == ["busybox-static", "sg3-utils"]
    with pytest.raises(ImageError, match="busybox-static sg3-utils"):
        guest_image()


def test_a_machine_without_package_lists_is_told_to_fetch_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(image, "missing_packages", list)
    monkeypatch.setattr(image, "_output", lambda *arguments, cwd=None: "")
    with pytest.raises(ImageError, match="apt-get update"):
        guest_image(tmp_path)


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "holdover"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "holdover"


def test_modules_come_after_those_they_need(tmp_path: Path) -> None:
    for name, needs in {"sd_mod": "scsi-common,crc", "scsi-common": "", "crc": "scsi_common"}.items():
        (tmp_path / f"{name}.ko").write_bytes(b"ELF\0license=GPL\0depends=" + needs.encode() + b"\0name=x\0")
    assert [name for name, _ in image._modules(tmp_path)] == ["scsi_common", "crc", "sd_mod"]


@pytest.mark.peer("busybox-static")
def test_the_archive_is_one_that_cpio_reads(tmp_path: Path) -> None:
    archive = image._CpioArchive()
    archive.add_file("a/b/tool", b"odd", executable=True)
    archive.add_file("a/b/tool", b"the second of a name is dropped")
    archive.add_file("a/data", b"")
    archive.add_link("bin/sh", "busybox")
    subprocess.run(["busybox", "cpio", "-i", "-d"], cwd=tmp_path, input=archive.finish(), check=True)
    assert (tmp_path / "a/b/tool").read_bytes() == b"odd"
    assert stat.S_IMODE((tmp_path / "a/b/tool").stat().st_mode) == 0o755
    assert (tmp_path / "a/data").read_bytes() == b""
    assert (tmp_path / "bin/sh").readlink() == Path("busybox")


@pytest.mark.peer("busybox-static", "sg3-utils", "qemu-system-x86")
@pytest.mark.xdist_group("qemu")
def test_the_guest_boots_and_has_its_tools() -> None:
    async def scenario() -> None:
        made = guest_image()
        assert guest_image() == made
        machine = VirtualMachine(name="g", kernel=made.kernel, initrd=made.initrd)
        async with QemuProcess.start(machine) as qemu:
            console = await qemu.console()
            await console.wait_for(READY, 600)
            for tool in ("sg_persist", "sg_inq", "sg_raw", "sg_turs", "sg_dd"):
                # 127 is the shell's and the loader's: no such program, no such library. sg_raw gives 1.
                assert (await console.run(f"{tool} --version")).status in {0, 1}
            modules = (await console.run("lsmod")).output
            assert {"virtio_scsi", "sd_mod", "sg"} <= {line.split()[0] for line in modules.splitlines()}
            refused = await console.run("workload start /dev/sda")
            assert refused.status == 1
            assert "no such disk" in refused.output
            await console.close()

    asyncio.run(scenario())
