"""The page: who may see it, and that a real browser shows what the agents say."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn

from holdover.api.client import AgentClient
from holdover.fleet.dashboard import Session, Settings, dashboard
from holdover.fleet.survey import Survey
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, San, san
from tests.rig import browser as rig
from tests.rig.browser import browser

PICTURES = os.environ.get("HOLDOVER_PICTURES")
"""A folder into which the test puts its pictures for the documentation."""


@asynccontextmanager
async def serving(site: San, *, allow_changes: bool = False) -> AsyncIterator[tuple[str, Session]]:
    """The page of a site; its address and its session."""

    def connect(api: str, _name: str | None) -> AgentClient:
        return AgentClient(api, timeout=600)

    survey = Survey([host.api for host in site.certified.values()], connect, peers=False)
    session = Session()
    app = dashboard(survey, session, Settings(allow_changes=allow_changes, version="1"), lambda: address)
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield address, session
    finally:
        server.should_exit = True
        await running
        await survey.close()


def test_only_the_browser_with_the_token_gets_in(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as site, serving(site) as (address, session):
            base = f"http://{address}"
            async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as stranger:
                for path in ("/", "/fleet.json", "/page.js", "/settings.json", f"/timeline/{GUEST}"):
                    assert (await stranger.get(base + path)).status == 403, path
                assert (await stranger.get(f"{base}/?token=guess")).status == 403
                assert (
                    await stranger.get(base, headers={"cookie": "holdover-dashboard=guess"})
                ).status == 403
                first = await stranger.get(f"{base}/?token={session.token}", allow_redirects=False)
                assert (first.status, first.headers["location"]) == (303, "/")
                assert {"HttpOnly", "SameSite=Strict"} <= set(first.headers["set-cookie"].split("; "))
                page = await stranger.get(base)
                assert page.status == 200
                assert "default-src 'none'" in page.headers["content-security-policy"]
                fleet = await (await stranger.get(f"{base}/fleet.json")).json()
                assert [each["name"] for each in fleet["hosts"]] == ["host-a", "host-b"]
                # the same cookie, from a page elsewhere or under another name
                elsewhere: dict[str, Any] = {"sec-fetch-site": "cross-site"}
                assert (await stranger.get(f"{base}/fleet.json", headers=elsewhere)).status == 403
                named = {"host": "evil.example"}
                assert (await stranger.get(f"{base}/fleet.json", headers=named)).status == 421
                asked = {"change": "cancel", "guest": GUEST, "host": "host-a"}
                only_shows = await stranger.post(f"{base}/change", json=asked)
                assert only_shows.status == 403
                assert "--allow-changes" in (await only_shows.json())["detail"]
            async with aiohttp.ClientSession() as late:
                again = await late.get(f"{base}/?token={session.token}")
                assert again.status == 403
                assert "has been used" in (await again.json())["detail"]

    asyncio.run(test())


def test_a_change_is_carried_out_or_its_refusal_is_shown(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path) as site, serving(site, allow_changes=True) as (address, session):
            await reserved(site)
            await site.clients["host-a"].prepare(GUEST, "h1", "host-b")
            async with aiohttp.ClientSession(
                f"http://{address}", cookie_jar=aiohttp.CookieJar(unsafe=True)
            ) as http:
                await http.get(f"/?token={session.token}")
                roll_back = {"change": "roll back", "guest": GUEST, "host": "host-a", "id": "h1"}
                done = await http.post("/change", json=roll_back)
                assert (await done.json())["text"] == f"handover h1 of guest {GUEST} is stayed"
                cancel = {"change": "cancel", "guest": GUEST, "host": "host-a"}
                refused = await http.post("/change", json=cancel)
                assert refused.status == 502
                nowhere = await http.post("/change", json={**cancel, "host": "host-z"})
                assert "no agent says that it is 'host-z'" in (await nowhere.json())["detail"]
                assert (await http.post("/change", json={**cancel, "more": 1})).status == 400

    asyncio.run(test())


@pytest.mark.skipif(not rig.is_here(), reason="no chromium")
def test_a_browser_shows_the_site_and_obeys_the_keyboard(tmp_path: Path) -> None:
    async def test() -> None:
        async with (
            asyncio.timeout(600),
            san(tmp_path, luns=2) as site,
            serving(site) as (address, session),
            browser(tmp_path) as page,
        ):
            await reserved(site)
            await site.clients["host-a"].prepare(GUEST, "h1", "host-b")
            await page.open(f"http://{address}/?token={session.token}")
            await page.until("document.querySelectorAll('#map [role=button]').length === 2")
            assert await page.value("location.search") == ""
            assert await page.value("document.querySelector('#map .link.holds') !== null")
            assert "wero" in await page.value("document.querySelector('#luns').innerText")
            assert "prepared" in await page.value("document.querySelector('#moves').innerText")
            await keep(page, "dashboard.png")

            # by keyboard alone: to the first guest, its details, and back
            await page.value("document.querySelector('#help').focus()")
            while await page.value("document.activeElement.getAttribute('data-key')") != f"{GUEST}@host-a":
                await page.press("Tab", 9)
            await page.press("Enter", 13)
            await page.until("document.querySelector('#details').open")
            body = "document.querySelector('#details-body').innerText"
            said = await page.until(f"{body}.includes('host-a (source)') && {body}")
            assert "0xc0ffee" in said
            assert "holder" in said
            await page.until("document.querySelectorAll('#details svg .span').length > 3")
            await keep(page, "dashboard-guest.png")
            await page.press("Escape", 27)
            await page.until("!document.querySelector('#details').open")
            await page.press("/")
            assert await page.value("document.activeElement.id") == "filter"
            await page.press("z")
            await page.until("document.querySelectorAll('#map [role=button]').length === 0")
            await page.value("document.activeElement.blur()")

            # dark by the system's wish, light by the key
            back = "getComputedStyle(document.body).backgroundColor"
            media = [{"name": "prefers-color-scheme", "value": "dark"}]
            await page.call("Emulation.setEmulatedMedia", features=media)
            dark = await page.value(back)
            await page.press("t")
            assert await page.value(back) != dark

            await site.stop("host-b")
            await page.value("document.querySelector('#filter').value = ''")
            await page.until("document.querySelector('#alarm-list').innerText.includes('does not answer')")
            assert {each.split("/")[2] for each in page.asked if each.startswith("http")} == {address}
            assert [each for each in page.complaints if "favicon" not in each] == []

    asyncio.run(test())


async def keep(page: rig.Browser, name: str) -> None:
    if PICTURES is not None:
        await page.picture(Path(PICTURES) / name)
