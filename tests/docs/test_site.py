"""The documentation as a site: built strictly, and complete without anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from pages.hooks import navigation, relinked

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("site")
_LOADS = {
    "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src",
    "embed": "src", "object": "data", "form": "action", "use": "href", "image": "href",
}  # fmt: skip
"""What a browser loads, or sends to, by itself. A link to elsewhere is a person's own choice."""


class Loads(HTMLParser):
    """The addresses that a browser loads for a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.classes.update(values.get("class", "").split())
        if tag in _LOADS:
            self.addresses += [values[name] for name in (_LOADS[tag], "srcset") if name in values]
        if tag == "link" and values.get("rel") not in {"canonical", "next", "prev"}:
            self.addresses.append(values.get("href", ""))


def is_elsewhere(address: str) -> bool:
    return bool(re.match(r"(?:[a-z]+:)?//", address))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    told = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    return folder


def test_every_page_is_there_and_in_the_navigation(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").with_suffix(".html").as_posix()
        place = "index.html" if place == "README.html" else place
        assert (site / place).is_file(), place
        assert place == "index.html" or f'href="{place}"' in index, f"{place} is not in the navigation"


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = [Loads(each.read_text()) for each in site.rglob("*.html")]
    assert len(pages) > 15
    assert [each for page in pages for each in page.addresses if is_elsewhere(each)] == []
    # the theme's script would fetch what draws diagrams, where a page has one
    assert not any("mermaid" in page.classes for page in pages)
    styles = "".join(each.read_text() for each in site.rglob("*.css"))
    named = [each.strip("\"'") for each in re.findall(r"url\(([^)]*)\)", styles)]
    assert [each for each in named if is_elsewhere(each)] == []
    assert "@import" not in styles


def test_what_is_loaded_from_elsewhere_is_seen() -> None:
    text = '<script src="//cdn.example/x.js"></script><link rel="stylesheet" href="https://fonts.example/y">'
    assert [is_elsewhere(each) for each in Loads(text + '<img src="a.svg">').addresses] == [True, True, False]


def test_the_navigation_is_the_index() -> None:
    index = "# D\n\n## Start\n\n| page | x |\n| --- | --- |\n| [One](start/one.md) | a |\n\n## Odd\n\nnone\n"
    assert navigation(index) == [
        {"Overview": "README.md"},
        {"Start": [{"One": "start/one.md"}, {"README": "start/readme.md"}]},
    ]


def test_links_to_files_outside_lead_to_pages_of_the_site() -> None:
    folder = ROOT / "docs" / "start"
    text = "[a](../../README.md#quick-start) [b](../glossary.md) [c](https://example.org/x) [d](none.md)"
    assert relinked(text, folder, "start/try-it.md") == (
        "[a](../start/readme.md#quick-start) [b](../glossary.md) [c](https://example.org/x) [d](none.md)"
    )
