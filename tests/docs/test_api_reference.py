"""The page of the API is what the agent says of itself."""

from __future__ import annotations

import asyncio

from tests.docs.api_reference import PAGE, description, page


def test_the_page_is_the_one_that_the_routes_make() -> None:
    assert PAGE.read_text() == page(asyncio.run(description())), (
        "python -m tests.docs.api_reference writes it"
    )
