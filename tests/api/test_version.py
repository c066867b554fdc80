"""Which agents hand guests over to each other, by the versions of their APIs."""

from __future__ import annotations

import pytest

from holdover.api.version import API_VERSION, refusal_of_version


@pytest.mark.parametrize("theirs", ["2.0", "2.1", "2.2"])
def test_equal_versions_and_neighbours_work(theirs: str) -> None:
    assert refusal_of_version("host-a", "2.1", "host-b", theirs) is None


@pytest.mark.parametrize("theirs", ["2.3", "1.1", "3.1", "", "2", "2.x", "two.one"])
def test_others_are_refused_with_both_versions(theirs: str) -> None:
    refused = refusal_of_version("host-a", "2.1", "host-b", theirs)
    assert refused is not None
    assert "the agent of host-a has API version 2.1" in refused
    assert f"the agent of host-b {theirs or 'none'}" in refused


def test_this_version_is_one() -> None:
    assert refusal_of_version("host-a", API_VERSION, "host-b", API_VERSION) is None
