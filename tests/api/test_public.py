"""What programs of others may import."""

from __future__ import annotations

import importlib.resources

import pytest

from holdover import api


def test_every_public_name_is_there() -> None:
    for name in api.__all__:
        assert getattr(api, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = api.nothing


def test_the_package_says_that_it_is_typed() -> None:
    assert importlib.resources.files("holdover").joinpath("py.typed").is_file()
