"""What the tests with a real guest share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rig.site import SharedSite


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedSite]:
    shared = SharedSite(tmp_path_factory.mktemp("site"))
    yield shared
    shared.end()
