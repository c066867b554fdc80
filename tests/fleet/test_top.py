"""`holdover top` of a real site, as a terminal shows it; the picture in the documentation comes from here."""

from __future__ import annotations

import asyncio
import io
import os
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from holdover.api.client import AgentClient
from holdover.cli.fleet.top import shown
from holdover.fleet.documents import Fleet
from holdover.fleet.picture import picture
from holdover.fleet.survey import Survey
from tests.agent.handover.moves import reserved
from tests.agent.hosts import GUEST, San, san
from tests.rig import browser as rig
from tests.rig.browser import browser

PICTURES = os.environ.get("HOLDOVER_PICTURES")
"""A folder into which the test puts its picture for the documentation."""
_COLUMNS = 116
_PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 0; padding: 16px; background: #0c0c0c; color: #d9d9d9 }}
pre {{ margin: 0; font: 14px/1.35 'DejaVu Sans Mono', monospace }}</style><pre>{code}</pre>"""


async def site_of(site: San) -> Fleet:
    """What `holdover top` has from the agents of a site."""

    def connect(api: str, _name: str | None) -> AgentClient:
        return AgentClient(api, timeout=600)

    survey = Survey([host.api for host in site.certified.values()], connect, peers=False)
    try:
        return picture(await survey.ask(), time.time())
    finally:
        await survey.close()


def screen() -> Console:
    """A terminal that keeps what it shows."""
    return Console(
        width=_COLUMNS, file=io.StringIO(), force_terminal=True, record=True, highlight=False,
        color_system="truecolor",
    )  # fmt: skip


def test_a_move_and_an_agent_that_is_silent_are_shown(tmp_path: Path) -> None:
    async def test() -> None:
        async with san(tmp_path, luns=2) as site:
            await reserved(site)
            await site.clients["host-a"].prepare(GUEST, "h1", "host-b")
            console = screen()
            console.print(shown(await site_of(site), live=True))
            text = console.export_text(clear=False)
            assert "hosts 2 of 2 answer" in text
            assert "prepared" in text
            assert "wero" in text
            if PICTURES is not None and rig.is_here():
                await keep(console, tmp_path, Path(PICTURES) / "top.png")

            await site.stop("host-b")
            console = screen()
            console.print(shown(await site_of(site), live=True))
            text = console.export_text()
            assert "hosts 1 of 2 answer" in text
            assert "! unix:" in text  # the alarm names the agent that is silent

    asyncio.run(test())


async def keep(console: Console, folder: Path, file: Path) -> None:
    """Save what a terminal shows as a picture."""
    height = 32 + 19 * console.export_text(clear=False).count("\n")
    page_file = folder / "top.html"
    page_file.write_text(console.export_html(theme=MONOKAI, inline_styles=True, code_format=_PAGE))
    async with browser(folder) as page:
        await page.call(
            "Emulation.setDeviceMetricsOverride", width=1010, height=height, deviceScaleFactor=1, mobile=False
        )
        await page.open(page_file.as_uri())
        await page.until("document.querySelector('pre') !== null")
        await page.picture(file)
