"""The API describes itself, and what it answers is what it describes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from tests.agent.hosts import GUEST, san

_DONE, _PROBLEM = "application/json", "application/problem+json"


def schema(description: dict[str, Any], path: str, method: str, status: int, media: str) -> Any:
    answer = description["paths"][path][method]["responses"][str(status)]
    return {**answer["content"][media]["schema"], "components": description["components"]}


def test_the_description_is_openapi_and_complete(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            san(tmp_path) as _,
            aiohttp.ClientSession(
                "http://localhost", connector=aiohttp.UnixConnector(str(tmp_path / "host-a.api.sock"))
            ) as http,
        ):
            description = await (await http.get("/openapi.json")).json(content_type=None)
            validate(description)
            operations = [each for path in description["paths"].values() for each in path.values()]
            assert len(operations) > 15
            assert len({each["operationId"] for each in operations}) == len(operations)
            for each in operations:
                assert each["description"], each["operationId"]
                assert each["tags"], each["operationId"]
                assert {"403"} < set(each["responses"]), each["operationId"]

            async def check(method: str, path: str, status: int, media: str, asked: str, **how: Any) -> Any:
                answer = await http.request(method, asked, **how)
                assert answer.status == status, await answer.text()
                assert answer.content_type == media
                body = await answer.json(content_type=None)
                rules = schema(description, path, method.lower(), status, media)
                OAS31Validator(rules).validate(body)
                return body

            await check("GET", "/guests", 200, _DONE, "/guests")
            await check("GET", "/guests/{name}", 200, _DONE, f"/guests/{GUEST}")
            await check("GET", "/migrations", 200, _DONE, "/migrations")
            body = await check("GET", "/guests/{name}", 404, _PROBLEM, "/guests/nobody")
            assert (body["status"], body["title"], body["type"]) == (404, "Not Found", "about:blank")
            commit = "/guests/{name}/handover/commit"
            asked = {"json": {"handover_id": "h"}}
            await check("POST", commit, 409, _PROBLEM, f"/guests/{GUEST}/handover/commit", **asked)
            await check("POST", commit, 400, _PROBLEM, f"/guests/{GUEST}/handover/commit", json={})
            forbidden = {"json": {"version": "2.3", "host": "host-b", "message": None}}
            await check("POST", "/peer/handover", 403, _PROBLEM, "/peer/handover", **forbidden)
            page = await http.get("/guests", headers={"origin": "https://page.example"})
            assert (page.status, page.content_type) == (403, _PROBLEM)

    asyncio.run(test())
