"""What the tests of the documentation read in a Markdown page: its links and its anchors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_FENCE = re.compile(r"^ *(```|~~~).*?^ *\1 *$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]*`")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)
_NOT_A_WORD = re.compile(r"[^\w\- ]")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    @cached_property
    def text(self) -> str:
        """The text without blocks of code."""
        return _FENCE.sub("", self.path.read_text())

    @cached_property
    def anchors(self) -> frozenset[str]:
        """The anchors of the headings, as GitHub makes them: a repeated one has a number."""
        seen: Counter[str] = Counter()
        found = set()
        for heading in _HEADING.findall(self.text):
            plain = _LINK.sub(lambda link: link[0][link[0].index("[") + 1 : link[0].index("]")], heading)
            slug = _NOT_A_WORD.sub("", plain.lower()).replace(" ", "-")
            found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
            seen[slug] += 1
        return frozenset(found)

    @cached_property
    def links(self) -> tuple[str, ...]:
        """The targets of links to files and headings; those of other sites are left out."""
        found = _LINK.findall(_CODE.sub("", self.text))
        return tuple(each for each in found if not _SCHEME.match(each))

    def target(self, link: str) -> tuple[Path, str]:
        """The file that a link leads to, and the anchor in it; an empty anchor is the whole file."""
        path, _, anchor = link.partition("#")
        return (self.path.parent / path).resolve() if path else self.path.resolve(), anchor


def broken_links(page: Page) -> Iterator[str]:
    """Each link of a page that leads to no file, or to no heading."""
    for link in page.links:
        path, anchor = page.target(link)
        if not path.exists():
            yield f"{page.path.name}: {link}: there is no such file"
        elif anchor and anchor not in Page(path).anchors:
            yield f"{page.path.name}: {link}: {path.name} has no such heading"


def reachable(start: Path) -> frozenset[Path]:
    """Every file to which links lead from a page, by way of other pages."""
    found = {start.resolve()}
    waiting = [start.resolve()]
    while waiting:
        page = Page(waiting.pop())
        for path in {page.target(link)[0] for link in page.links} - found:
            found.add(path)
            if path.suffix == ".md" and path.exists():
                waiting.append(path)
    return frozenset(found)
