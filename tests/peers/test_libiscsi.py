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


MOST_SKIPPED = 80
"""Lines with which libiscsi gives a check up since the target lacks something; a well-known target has 81."""


def run_tests(tests: str, url: str) -> tuple[int, str]:
    """Run tests, of which all must pass: their number, and what was said from the first on. Its exit status
    says none of that."""
    arguments = ["iscsi-test-cu", "--dataloss", "--allow-sanitize", f"--test={tests}", url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600, check=False)
    said = done.stdout + done.stderr
    # of the line "tests TOTAL RAN PASSED FAILED INACTIVE" beneath "Run Summary:"
    summary = re.search(r"Run Summary:.*?\n\s*tests +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)", said, re.DOTALL)
    assert summary is not None, said
    total, ran, passed, failed, _ = (int(number) for number in summary.groups())
    assert (ran, passed, failed) == (total, total, 0), said
    return total, said.partition("Suite: ")[2]


def assert_passes(suite: str, url: str) -> None:
    """Run one suite: one test at least, all passed, none skipped."""
    total, said = run_tests(f"SCSI.{suite}", url)
    assert total > 0, said
    # a test that gives up since it misses something counts as passed
    assert "SKIPPED" not in said, said


@pytest.mark.parametrize("suite", SUITES)
def test_a_target_passes(suite: str, rig: Rig) -> None:
    assert_passes(suite, rig.target().url())


@pytest.mark.parametrize("suite", SUITES)
def test_an_agents_export_passes_without_migrate_pr(suite: str, rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target().url()], migrate_pr=False)
    assert_passes(suite, agent.url())


def test_a_target_passes_the_whole_scsi_suite(rig: Rig) -> None:
    total, said = run_tests("SCSI", rig.target(size="100M").url())
    assert total == 215
    assert said.count("SKIPPED") <= MOST_SKIPPED


def test_a_target_passes_the_whole_iscsi_suite(rig: Rig) -> None:
    total, _ = run_tests("iSCSI", rig.target(size="100M").url())
    assert total == 15
