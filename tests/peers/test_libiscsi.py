"""libiscsi's conformance suites for persistent reservations, on a target and on an agent's export."""

from __future__ import annotations

import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.rig.amounts import some
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
    "Reserve6",
)

ONE_NEXUS = (
    *(
        f"ProutReserve.{test}{kind}"
        for test in ("Access", "Ownership")
        for kind in ("EA", "WE", "EARO", "WERO", "EAAR", "WEAR")
    ),
    "ProutPreempt.RemoveRegistration",
    "ReceiveCopyResults.CopyStatus",
)
"""Tests that an export with ``migrate-pr=on`` fails: its guest is one I_T nexus, whatever names log in. The
first thirteen want two initiators that have registrations of their own. The last one wants a copy's status to
be forgotten with its session, and the guest's nexus outlives its sessions."""


MOST_SKIPPED = 80
"""Lines with which libiscsi gives a check up since the target lacks something; a well-known target has 81."""


def run(tests: str, url: str, *options: str) -> str:
    """Run tests; what they said. The exit status says nothing."""
    arguments = ["iscsi-test-cu", "--dataloss", *options, f"--test={tests}", url]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=1200, check=False)
    return done.stdout + done.stderr


def summary_of(said: str) -> tuple[int, int, int, int]:
    """How many tests there are, have run, have passed and have failed: of the line "tests TOTAL RAN PASSED
    FAILED INACTIVE" beneath "Run Summary:"."""
    found = re.search(r"Run Summary:.*?\n\s*tests +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)", said, re.DOTALL)
    assert found is not None, said
    total, ran, passed, failed, _ = (int(number) for number in found.groups())
    return total, ran, passed, failed


def run_tests(tests: str, url: str) -> tuple[int, str]:
    """Run tests, of which all must pass: their number, and what was said from the first on."""
    said = run(tests, url)
    total, ran, passed, failed = summary_of(said)
    assert (ran, passed, failed) == (total, total, 0), said
    return total, said.partition("Suite: ")[2]


def failed_of(said: str) -> set[str]:
    """SUITE.TEST of each test that failed."""
    suite = test = ""
    failed = set()
    for line in said.splitlines():
        if found := re.match(r"Suite: (\w+)", line):
            suite = found[1]
        elif found := re.match(r"  Test: (\w+) \.\.\.", line):
            test = found[1]
        if re.search(r"(^|\.\.\.)FAILED$", line):
            failed.add(f"{suite}.{test}")
    return failed


def assert_passes(suite: str, url: str) -> None:
    """Run one suite: one test at least, all passed, none skipped."""
    total, said = run_tests(f"SCSI.{suite}", url)
    assert total > 0, said
    # a test that gives up since it misses something counts as passed
    assert "SKIPPED" not in said, said


# RESERVE(6) takes longest
_EACH = [pytest.param(each, marks=pytest.mark.long if each == "Reserve6" else ()) for each in SUITES]


@pytest.mark.parametrize("suite", _EACH)
def test_a_target_passes(suite: str, rig: Rig) -> None:
    assert_passes(suite, rig.target().url())


@pytest.mark.long
def test_reserve_6_makes_no_difference_through_an_agents_export_with_migrate_pr(rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target().url()], migrate_pr=True)
    assert_passes("Reserve6", agent.url())


@pytest.mark.parametrize("suite", _EACH)
def test_an_agents_export_passes_without_migrate_pr(suite: str, rig: Rig) -> None:
    agent = rig.agent("host-a", guest="db1", drives=[rig.target().url()], migrate_pr=False)
    assert_passes(suite, agent.url())


def test_a_target_passes_the_whole_iscsi_suite(rig: Rig) -> None:
    total, _ = run_tests("iSCSI", rig.target(size="100M").url())
    assert total == 15


@pytest.mark.parametrize("migrate_pr", some((True, False), 2))
def test_an_agents_export_passes_the_whole_iscsi_suite(migrate_pr: bool, rig: Rig) -> None:
    drives = [rig.target(size="100M").url()]
    agent = rig.agent("host-a", guest="db1", drives=drives, migrate_pr=migrate_pr)
    total, _ = run_tests("iSCSI", agent.url())
    assert total == 15


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="without SANITIZE"),
        # its eleven tests sleep for a minute again and again
        pytest.param(("--allow-sanitize",), id="with SANITIZE"),
    ],
)
def test_the_whole_scsi_suite_on_a_target_and_on_exports(options: tuple[str, ...], rig: Rig) -> None:
    """Three runs side by side, since most of their time they sleep.

    Without the option, the tests of SANITIZE are among those that give up.
    """
    urls = [rig.target(size="100M").url()]
    for name, migrate_pr in (("host-a", False), ("host-b", True)):
        drives = [rig.target(size="100M").url()]
        urls.append(rig.agent(name, guest="db1", drives=drives, migrate_pr=migrate_pr).url())
    with ThreadPoolExecutor(len(urls)) as pool:
        on_target, on_gateway, on_guest = pool.map(lambda url: run("SCSI", url, *options), urls)
    for said in (on_target, on_gateway):
        assert summary_of(said) == (215, 215, 215, 0), said
        assert said.count("SKIPPED") <= MOST_SKIPPED
    failed = failed_of(on_guest)
    assert failed == set(ONE_NEXUS)
    assert summary_of(on_guest) == (215, 215, 215 - len(failed), len(failed))
