"""The page of the API's routes and documents, written from the API's own description.

``python -m tests.docs.api_reference`` writes the page again; a test compares.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from holdover.agent.host import Host
from holdover.agent.monitoring.monitor import Monitor
from holdover.agent.server import application
from holdover.config.agent_file import AgentConfig
from holdover.pki.tls import CERTIFIED

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "api.md"

Message = Any
"""A message of ASGI."""

_HEAD = """# The API

An agent answers at its Unix socket (`/run/holdover/api.sock`), and over TCP with mutual TLS (`[api]` in
[the agent's file](configuration.md)). Its version is {version}. Hosts whose second numbers are
neighbours hand guests over to each other. `GET /openapi.json` answers the description of all routes and
documents (OpenAPI 3.1), from which this page is made.

An error is a document of the type `application/problem+json` (RFC 9457): `detail` says what happened,
what is true now, and what comes next.

    curl --unix-socket /run/holdover/api.sock http://localhost/guests

## From Python

`holdover.api` has a typed client. What it exports changes its meaning only with the first number of the
version.

```python
import asyncio

from holdover.api import AgentClient


async def gates() -> dict[str, list[str]]:
    async with AgentClient("unix:/run/holdover/api.sock") as agent:
        host = await agent.guests()
    return {{guest.name: [device.gate for device in guest.devices] for guest in host.guests}}


print(asyncio.run(gates()))
```

Over TCP, give the client certificates: `AgentClient("host-a:7411",
tls=ClientTls(Credentials(TlsFiles(...)).client))`. An answer that says no raises `AgentRefused`, whose
`problem` is the document. If there is no answer, `AgentError` says so: then it is not known what the
agent did, and every request may be repeated.
"""


_FILE = """
name = "host-a"
initiator = "iqn.2026-11.org.example:host-a"
[api]
listen = "unix:{folder}/api.sock"
"""


async def description() -> dict[str, Any]:
    """What an agent answers at ``/openapi.json``."""
    with tempfile.TemporaryDirectory() as folder:
        text = _FILE.format(folder=folder)
        host = Host(msgspec.toml.decode(text, type=AgentConfig))
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        request: Any = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/openapi.json",
            "raw_path": b"/openapi.json",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost")],
            "client": None,
            "server": None,
            "state": {CERTIFIED: None},
        }
        await application(host, None, Monitor(host))(request, receive, send)
        found = json.loads(b"".join(each.get("body", b"") for each in sent))
        assert isinstance(found, dict)
        return found


def page(described: dict[str, Any]) -> str:
    """The page, as Markdown."""
    parts = [_HEAD.format(version=described["info"]["version"])]
    for tag in described["tags"]:
        rows = [
            f"| `{method.upper()} {path}` | {_taken(operation)} | {_answered(operation)} "
            f"| {operation['description']} |"
            for path, operations in described["paths"].items()
            for method, operation in operations.items()
            if operation["tags"] == [tag["name"]]
        ]
        if rows:
            parts.append(
                f"## {tag['name']}\n\n{tag['description']}\n\n"
                + "| route | takes | answers | |\n| --- | --- | --- | --- |\n"
                + "\n".join(rows)
                + "\n"
            )
    parts.append("## Documents\n")
    for name, schema in sorted(described["components"]["schemas"].items()):
        if "properties" in schema:
            fields = "\n".join(
                f"| `{field}` | {_type(rules)} | {'yes' if field in schema.get('required', ()) else ''} |"
                for field, rules in schema["properties"].items()
            )
            parts.append(f"### {name}\n\n| field | type | always given |\n| --- | --- | --- |\n{fields}\n")
        elif "enum" in schema:
            parts.append(f"### {name}\n\nOne of {', '.join(f'`{each}`' for each in schema['enum'])}.\n")
    return "\n".join(parts)


def _taken(operation: dict[str, Any]) -> str:
    body = operation.get("requestBody")
    return "" if body is None else _type(next(iter(body["content"].values()))["schema"])


def _answered(operation: dict[str, Any]) -> str:
    answer = operation["responses"].get("200", {}).get("content", {})
    return _type(next(iter(answer.values()))["schema"]) if answer else ""


def _type(rules: dict[str, Any]) -> str:
    """The type of a field in words, with links to documents."""
    if "$ref" in rules:
        name = rules["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "oneOf" in rules or "anyOf" in rules:
        return " or ".join(_type(each) for each in rules.get("oneOf") or rules["anyOf"])
    if rules.get("type") == "array":
        return f"list of {_type(rules.get('items', {}))}"
    kind = rules.get("type", "anything")
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


if __name__ == "__main__":
    PAGE.write_text(page(asyncio.run(description())))
