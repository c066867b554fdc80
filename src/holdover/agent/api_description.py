"""The description of the API (OpenAPI 3.1), made from its routes: ``GET /openapi.json``."""

from __future__ import annotations

from typing import Final

from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag

from holdover.api.documents import Problem
from holdover.api.problems import PROBLEM_TYPE
from holdover.api.version import API_VERSION

GUESTS: Final = "Guests"
HANDOVER: Final = "Handover"
MIGRATION: Final = "Migration"
PEERS: Final = "Peers"
AGENT: Final = "Agent"

_TEXT: Final = """An agent answers at its Unix socket, and over TCP with mutual TLS.

Times are seconds since the epoch. A reservation key is a string, "0x…", because many JSON readers round
numbers above 2**53. The first number of the version changes with the name or the meaning of a field, the
second one with each addition."""


def _problem(description: str) -> ResponseSpec:
    return ResponseSpec(
        data_container=Problem,
        description=description,
        generate_examples=False,
        media_type=PROBLEM_TYPE,
    )


BAD: Final = {400: _problem("The document is not what the route takes."), 403: _problem("You may not ask.")}
NO_GUEST: Final = {**BAD, 404: _problem("There is no such guest, or nothing of that kind.")}
NOT_DONE: Final = {**NO_GUEST, 409: _problem("It was not done. The detail says what is true now.")}


def openapi_config() -> OpenAPIConfig:
    """The configuration by which the API describes itself."""
    return OpenAPIConfig(
        title="Holdover agent",
        version=API_VERSION,
        description=_TEXT,
        path="/",
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        use_handler_docstrings=True,
        tags=[
            Tag(name=GUESTS, description="The guests of this host, and what they have on which LUN."),
            Tag(name=HANDOVER, description="The reservations of a guest move to another host, step by step."),
            Tag(name=MIGRATION, description="A guest moves to another host with its reservations, as a job."),
            Tag(name=AGENT, description="The agent itself."),
            Tag(name=PEERS, description="What agents ask each other. It needs a peer's certificate."),
        ],
        components=Components(
            security_schemes={
                "mutualTLS": SecurityScheme(
                    type="mutualTLS",
                    description="A certificate that [[peer]] or operators of the agent's file names.",
                )
            }
        ),
        security=[{"mutualTLS": []}],
    )
