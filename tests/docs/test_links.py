"""Every link between pages resolves, and every page can be reached from README.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.markdown import Page, broken_links, reachable

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "requirements").glob("*.md")),
]

_PAGE_NAME = re.compile(r"(?<![\w/.])docs/[\w/-]+\.(?:md|svg)\b")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_resolves(page: Path) -> None:
    assert list(broken_links(Page(page))) == []


def test_every_page_is_reachable_from_the_readme() -> None:
    missing = set((ROOT / "docs").rglob("*.*")) - reachable(ROOT / "README.md")
    assert not missing, "link these files from docs/README.md or from the page that shows them"


def test_the_index_names_every_page() -> None:
    index = Page(ROOT / "docs" / "README.md")
    named = {index.target(link)[0] for link in index.links}
    assert set((ROOT / "docs").rglob("*.md")) - named == {index.path}


def test_every_page_that_a_file_names_is_there() -> None:
    files = [each for folder in ("src", "tests", "bench", "systemd") for each in (ROOT / folder).rglob("*.*")]
    files += [ROOT / "Makefile", *sorted(ROOT.rglob("docs/**/*.md")), *sorted(ROOT.glob("*.md"))]
    named = {
        (path.name, name)
        for path in files
        if path.is_file() and path.suffix not in {".pyc", ".zst"}
        for name in _PAGE_NAME.findall(path.read_text(errors="replace"))
    }
    assert named
    assert [(where, name) for where, name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_readme_has_at_most_two_screens() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 90


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One\n## `b`, and c\n## One\n```\n# no heading\n```\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Here\n"
        "[good](other.md#b-and-c) [again](other.md#one-1) [self](#here) [away](https://example.org/none)\n"
        "`[code](none.md)` ![picture](none.svg)\n"
        "[file](none.md) [heading](other.md#two) [comment](other.md#no-heading)\n"
        "```\n[block](none.md)\n```\n"
    )
    assert list(broken_links(Page(page))) == [
        "page.md: none.svg: there is no such file",
        "page.md: none.md: there is no such file",
        "page.md: other.md#two: other.md has no such heading",
        "page.md: other.md#no-heading: other.md has no such heading",
    ]


def test_a_page_without_a_link_to_it_is_not_reachable(tmp_path: Path) -> None:
    start, middle, end, alone = (tmp_path / f"{name}.md" for name in ("start", "middle", "end", "alone"))
    start.write_text("[next](middle.md#x)")
    middle.write_text("[next](end.md) [back](start.md)")
    end.write_text("the end")
    alone.write_text("[to](end.md)")
    assert reachable(start) == {start, middle, end}
