"""`holdover doctor`, as its user sees it, and the judgements that need no host."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdover.doctor.finding import Verdict
from holdover.doctor.programs import judge_multipath, judge_qemu, multipath_checks
from tests.rig.processes import Rig, free_port

FILE = """name = "host-a"
initiator = "iqn.2026-11.org.example:host-a"
state-dir = "{folder}/state"
api.listen = ["unix:{folder}/api.sock", "{address}"]
api.certificate = "{certificate}"
api.key = "{key}"
api.ca = "{ca}"

[[peer]]
name = "host-b"
api = "{peer}"

[[guest]]
name = "db1"
machine = "pc"
export = "127.0.0.1:{port}"
devices = ["scsi-block,id=disk0,drive={url},migrate-pr=on"]
"""


def findings(rig: Rig, file: Path) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    done = rig.holdover("doctor", "--config", str(file), "--json")
    document = json.loads(done.stdout)
    assert document["healthy"] is (done.returncode == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for each in document["findings"]:
        found.setdefault(each["check"], []).append(each)
        assert each["todo"] or each["verdict"] in ("ok", "warning")
    return done.returncode, found


def verdicts(found: dict[str, list[dict[str, Any]]], check: str) -> set[str]:
    return {each["verdict"] for each in found[check]}


def test_a_host_that_is_well_and_then_is_not(rig: Rig, tmp_path: Path) -> None:
    target = rig.target()
    here = rig.hosts["host-a"]
    there = rig.agent("host-b", guest="db1", drives=[target.url()], incoming=True)
    file = tmp_path / "agent.toml"
    file.write_text(
        FILE.format(
            folder=tmp_path,
            address=here.address,
            certificate=here.certificate,
            key=here.key,
            ca=here.ca,
            peer=rig.hosts["host-b"].address,
            port=free_port(),
            url=target.url(),
        )
    )
    agent = rig.start(
        "agent", ["agent", "--config", str(file)], ports=[f"unix:{tmp_path}/api.sock", here.address]
    )
    status, found = findings(rig, file)
    assert status == 0, found
    for check in ("configuration", "state-dir", "journal", "certificates", "agent", "peers", "LUNs"):
        assert verdicts(found, check) == {"ok"}, found[check]
    assert "is LUN" in found["LUNs"][0]["text"]
    shown = rig.holdover("doctor", "--config", str(file))
    assert shown.returncode == 0
    assert "host-b answers, and its clock agrees" in shown.stdout

    agent.end()
    there.process.end()
    (tmp_path / "state").chmod(0o755)
    status, found = findings(rig, file)
    assert status == 1
    assert verdicts(found, "agent") == {"wrong"}
    assert verdicts(found, "peers") == {"wrong"}
    assert verdicts(found, "state-dir") == {"warning"}
    assert found["state-dir"][0]["todo"] == f"chmod 700 {tmp_path}/state"


def test_drives_by_two_addresses(rig: Rig, tmp_path: Path) -> None:
    target, here = rig.target(luns=2), rig.hosts["host-a"]
    other = target.url(1).replace("127.0.0.1", "localhost")
    text = FILE.format(
        folder=tmp_path,
        address=here.address,
        certificate=here.certificate,
        key=here.key,
        ca=here.ca,
        peer=rig.hosts["host-b"].address,
        port=free_port(),
        url=target.url(),
    )
    file = tmp_path / "agent.toml"
    file.write_text(text.replace('migrate-pr=on"', f'migrate-pr=on", "scsi-block,id=disk1,drive={other}"'))
    _, found = findings(rig, file)
    (said,) = found["addresses"]
    assert said["verdict"] == "warning"
    assert "guest db1" in said["text"]
    assert f"{target.url()} and {other}" in said["text"]
    assert "holdover explain two-addresses" in said["todo"]
    # doctor's own sessions do not end one another
    assert verdicts(found, "LUNs") == {"ok"}, found["LUNs"]
    file.write_text(text)
    assert verdicts(findings(rig, file)[1], "addresses") == {"ok"}


def test_a_file_that_cannot_be_used_is_the_first_finding(rig: Rig, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text("nme = 'host-a'\n")
    status, found = findings(rig, file)
    assert status == 1
    assert verdicts(found, "configuration") == {"wrong"}
    assert "nme" in found["configuration"][0]["text"]


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7)", Verdict.OK),
        ("QEMU emulator version 2.10.0", Verdict.WRONG),
        ("QEMU emulator version 11.1.3", Verdict.OK),
        ("", Verdict.UNKNOWN),
    ],
)
def test_versions_of_qemu(said: str, verdict: Verdict) -> None:
    assert judge_qemu("/usr/bin/qemu-system-x86_64", said).verdict is verdict


def test_what_multipathd_must_be_told(tmp_path: Path) -> None:
    assert judge_multipath("defaults {\n\treservation_key file\n}\n").verdict is Verdict.OK
    assert judge_multipath('defaults {\n\treservation_key "file"\n}\n').verdict is Verdict.OK
    assert judge_multipath("defaults {\n\treservation_key 0x1\n}\n").verdict is Verdict.WARNING
    assert [each.verdict for each in multipath_checks(tmp_path)] == [Verdict.OK]
