"""Asks an agent, over its API."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import quote

import httpx
import msgspec

from holdover.agent.api import GuestState, HostState, Moved, Problem, Step, StepAnswer, StepRequest
from holdover.agent.config import parse_host_port

__all__ = ["AgentClient", "AgentError", "AgentRefused"]

T = TypeVar("T")


class AgentError(Exception):
    """An agent could not be asked, or its answer did not come: what it did is in doubt."""


class AgentRefused(AgentError):
    """The agent answered that it did not do what was asked; `problem` says why."""

    def __init__(self, api: str, problem: Problem) -> None:
        self.problem = problem
        where = f"{problem.host} ({api})" if problem.host else api
        step = f" {problem.step.upper()}" if problem.step else ""
        super().__init__(f"{where}{step}: {problem.error}")


class AgentClient:
    """One agent, by the address of its API (HOST:PORT)."""

    def __init__(self, api: str, timeout: float = 60.0) -> None:
        """``timeout``: seconds for each request.

        Raises:
            ConfigError: ``api`` is not HOST:PORT.
        """
        self.api = str(parse_host_port(api, "API"))
        self._http = httpx.AsyncClient(base_url=f"http://{self.api}", timeout=timeout, trust_env=False)

    async def guests(self) -> HostState:
        """The host and all its guests."""
        return await self._ask("GET", "/guests", HostState)

    async def guest(self, name: str) -> GuestState:
        """One guest."""
        return await self._ask("GET", f"/guests/{quote(name, safe='')}", GuestState)

    async def step(self, guest: str, step: Step, handover: str, devices: tuple[Moved, ...]) -> StepAnswer:
        """One step of a handover.

        Raises:
            AgentRefused: The step was not done.
            AgentError: Whether it was done is in doubt; repeating it is harmless.
        """
        body = msgspec.json.encode(StepRequest(handover=handover, devices=devices))
        path = f"/guests/{quote(guest, safe='')}/handover/{step.value}"
        return await self._ask("POST", path, StepAnswer, body)

    async def _ask(self, method: str, path: str, answer: type[T], body: bytes | None = None) -> T:
        headers = {"content-type": "application/json"} if body is not None else None
        try:
            response = await self._http.request(method, path, content=body, headers=headers)
        except httpx.HTTPError as error:
            what = str(error) or type(error).__name__
            raise AgentError(f"agent at {self.api}: {what}; is it running, and is this its --api?") from error
        try:
            if response.status_code != 200:
                raise AgentRefused(self.api, msgspec.json.decode(response.content, type=Problem))
            return msgspec.json.decode(response.content, type=answer)
        except msgspec.DecodeError as error:
            raise AgentError(f"what answers at {self.api} is not a Holdover agent ({error})") from error

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
