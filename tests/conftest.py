"""What every test may use: the marker `peer`, and the fixtures that start real processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.rig.packages import needs
from tests.rig.processes import Rig


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under CI fail, a test marked `peer(package, ...)` whose packages are missing."""
    for marker in item.iter_markers("peer"):
        needs(*marker.args)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show, beneath a test that failed, what the processes of its rig have written.

    The rig is one of the test's fixtures, or that fixture's attribute `rig`.
    """
    report = yield
    if report.failed:
        used = getattr(item, "funcargs", {}).values()
        for rig in (value if isinstance(value, Rig) else getattr(value, "rig", None) for value in used):
            for process in rig.processes if isinstance(rig, Rig) else ():
                report.sections.append((f"{process.name} (pid {process.popen.pid})", process.output()))
    return report


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Real `holdover` processes over loopback, ended when the test ends."""
    started = Rig(tmp_path)
    yield started
    started.end()
