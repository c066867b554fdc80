"""libiscsi's conformance suites for persistent reservations, on a target and on an agent's export."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.rig.processes import Rig

pytestmark = pytest.mark.peer("libiscsi-bin")

SUITES = (
    "PrinReadKeys",
    "PrinServiceactionRange",
    "PrinReportCapabilities",
    "ProutRegister",
    "ProutReserve",
    "ProutClear",
    "ProutPreempt",
)


def assert_passes(suite: str, url: str) -> None:
    """Run one suite: one test at least, all passed, none skipped. Its exit status says none of that."""
    arguments = ["iscsi-test-cu", "--dataloss", f"--test=SCSI.{suite}", url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    said = done.stdout + done.stderr
    # of the line "tests TOTAL RAN PASSED FAILED INACTIVE" beneath "Run Summary:"
    summary = re.search(r"Run Summary:.*?\n\s*tests +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)", said, re.DOTALL)
    assert summary is not None, said
    total, ran, passed, failed, _ = (int(number) for number in summary.groups())
    assert (ran, passed, failed) == (total, total, 0), said
    assert total > 0, said
    # a test that gives up since it misses something counts as passed
    _, _, tests = said.partition("Suite: ")
    assert "SKIPPED" not in tests, said


@pytest.mark.parametrize("suite", SUITES)
def test_a_target_passes(suite: str, rig: Rig) -> None:
    assert_passes(suite, rig.target().url())


@pytest.mark.parametrize("suite", SUITES)
def test_an_agents_export_passes_without_migrate_pr(suite: str, rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target().url()], migrate_pr=False)
    assert_passes(suite, agent.url())
