"""The page "Two hosts with plain QEMU", typed as it stands on fresh hosts that have the package alone.

The transcript is kept: build/transcripts/two-hosts-qemu.txt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rig.debian_root import debian_root
from tests.rig.hosts import SeparateHosts, separate_hosts
from tests.rig.package import build_packages

pytestmark = [pytest.mark.long, pytest.mark.peer("systemd-container"), pytest.mark.xdist_group("deb")]

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "start" / "two-hosts-qemu.md"
KEPT = ROOT / "build" / "transcripts" / "two-hosts-qemu.txt"
_BLOCK = re.compile(r'^```(\w+) title="([^"]+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A block of the page: the hosts on which it is typed, and the file that it is, if it is one."""

    hosts: tuple[str, ...]
    file: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    for _, title, text in _BLOCK.findall(page):
        names, _, file = title.partition(": ")
        yield Block(tuple(names.split(", ")), file, text)


def test_each_block_has_a_host() -> None:
    text = PAGE.read_text()
    assert len(list(blocks(text))) == text.count("\n```sh") + text.count("\n```toml")


class Typist:
    """Who types the page, and writes down what is typed and what the hosts answer."""

    def __init__(self, hosts: SeparateHosts) -> None:
        self.hosts = hosts
        self.transcript: list[str] = []

    def type(self, block: Block) -> None:
        for name in block.hosts:
            host = self.hosts[name]
            if block.file:
                host.inside(block.file).write_text(block.text)
                self.transcript.append(f"== {name}: {block.file}\n{block.text}")
                continue
            if name == "san":
                command = re.sub(r"^holdover ", "", block.text.strip().removesuffix("&").strip())
                host.start(*command.split())
                self.transcript.append(f"== {name}\n{block.text}")
                continue
            done = host.run("bash", "-euc", f"cd /root\n{block.text}", timeout=600)
            self.transcript.append(f"== {name}\n{block.text}-- exit status {done.returncode}\n")
            self.transcript.append(f"{done.stdout}{done.stderr}")
            assert done.returncode == 0, "\n".join(self.transcript[-2:])

    def keep(self) -> None:
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text("\n".join(self.transcript))


def copy_certificates(hosts: SeparateHosts) -> None:
    """What the page leaves to the operator: the files of host-b reach host-b."""
    for name in ("ca.crt", "host-b.crt", "host-b.key"):
        copy = hosts["host-b"].inside(f"/etc/holdover/{name}")
        copy.write_bytes(hosts["host-a"].inside(f"/root/ca/{name}").read_bytes())
        copy.chmod(0o600)


def test_the_page_leads_from_nothing_to_a_moved_reservation(tmp_path: Path) -> None:
    (package,) = build_packages(tmp_path, "1")
    debian = debian_root()
    with separate_hosts(
        tmp_path / "hosts", "san", "host-a", "host-b", roots={"host-a": debian, "host-b": debian}
    ) as hosts:
        for name in ("host-a", "host-b"):
            hosts[name].inside(f"/root/{package.name}").write_bytes(package.read_bytes())
        typist = Typist(hosts)
        try:
            for block in blocks(PAGE.read_text()):
                typist.type(block)
                if "holdover ca issue host-b" in block.text:
                    copy_certificates(hosts)
            said = "\n".join(typist.transcript)
            holders = re.findall(r"^0xdb1 +yes +wero .*?:(host-[ab]),i,", said, re.MULTILINE)
            assert holders == ["host-a", "host-b"], said
            leave_nothing_to_load(typist)
        finally:
            typist.keep()


def leave_nothing_to_load(typist: Typist) -> None:
    """The guest comes home although the program is gone, as in an upgrade: agents have loaded it all."""
    for name in ("host-a", "host-b"):
        assert (
            typist.hosts[name]
            .run("mv", "/opt/holdover/lib/python3.11/site-packages/holdover", "/opt/away")
            .returncode
            == 0
        )
    command = "import sys; sys.path[:0] = ['/opt/keep']; from holdover.cli.main import main; main()"
    for name in ("host-a", "host-b"):
        typist.hosts[name].run("sh", "-c", "mkdir /opt/keep && cp -a /opt/away /opt/keep/holdover")
    host = typist.hosts["host-b"]
    words = ["migrate", "db1", "--to", "host-a", "--reservations-only"]
    done = host.run("/opt/holdover/bin/python", "-c", command, *words, timeout=600)
    typist.transcript.append(
        f"== host-b, without /opt/holdover\nholdover {' '.join(words)}\n{done.stdout}{done.stderr}"
    )
    assert done.returncode == 0, done.stdout + done.stderr
