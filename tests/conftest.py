"""What every test may use: the markers `peer` and `long`, and the fixtures that start real processes."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.rig.amounts import is_whole, set_whole
from tests.rig.packages import needs
from tests.rig.processes import Rig


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option of `make test-long`."""
    parser.addoption("--long", action="store_true", help="run what takes long too, and every test whole")


def pytest_configure(config: pytest.Config) -> None:
    """Say how much a test does, and that none depends on how fast the machine is, before any is collected."""
    set_whole(config.getoption("long"))
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests marked `long` out, unless they were asked for."""
    if is_whole():
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, or under CI fail, a test marked `peer(package, ...)` whose packages are missing."""
    for marker in item.iter_markers("peer"):
        needs(*marker.args)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Fail a test after which this process has lost a capability: later tests would fail in its place."""
    now = _capabilities()
    before, _CAPABILITIES[:] = _CAPABILITIES[:], [now]
    assert before == [now], f"{item.nodeid} has changed the capabilities of the process that runs the tests"


def _capabilities() -> str:
    status = Path("/proc/self/status").read_text("utf-8")
    return status.partition("CapEff:")[2].split(maxsplit=1)[0]


_CAPABILITIES = [_capabilities()]


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
