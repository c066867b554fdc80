"""What the tests with a real guest share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.separate_pair import SIDES, Pair, Pool
from tests.rig.site import SharedSite


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedSite]:
    shared = SharedSite(tmp_path_factory.mktemp("site"))
    yield shared
    shared.end()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    made = Pool(tmp_path_factory.mktemp("sites"))
    yield made
    made.end()


@pytest.fixture
def pair(pool: Pool, request: pytest.FixtureRequest) -> Iterator[Pair]:
    failed = request.session.testsfailed
    guest = pool.guest()
    yield Pair(guest, *guest.rest())
    if request.session.testsfailed != failed:
        pool.end()
        return
    for name in SIDES:
        if not guest.site.agents[name].running:
            guest.site.start_agent(name)
