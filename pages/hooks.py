"""What mkdocs does besides: the navigation is that of docs/README.md; files outside of docs/ are pages."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
_OUTSIDE = {"README.md": "start/readme.md", "CHANGELOG.md": "develop/changes.md"}
"""Pages outside of docs/, and where the site has them."""
_FOLDERS = ("kubernetes", "monitoring")
"""Folders whose files the site has too, below files/, for pages that name them."""
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_ROW = re.compile(r"^\| \[([^\]]+)\]\(([^)#]+)\)", re.MULTILINE)


def navigation(index: str) -> list[dict[str, Any]]:
    """The navigation of the site: the headings of docs/README.md with the pages in their tables."""
    parts: list[dict[str, Any]] = [{"Overview": "README.md"}]
    for part in index.split("\n## ")[1:]:
        rows = [{title: _place(target)} for title, target in _ROW.findall(part)]
        if rows:
            parts.append({part.partition("\n")[0]: rows})
    parts[1][next(iter(parts[1]))].append({"README": _OUTSIDE["README.md"]})
    return parts


def _place(target: str) -> str:
    return _OUTSIDE[target.removeprefix("../")] if target.startswith("../") else target


def on_config(config: Any) -> Any:
    """Set the navigation."""
    config["nav"] = navigation((ROOT / "docs" / "README.md").read_text(encoding="utf-8"))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages and the files that are outside of docs/."""
    for path in (each for folder in _FOLDERS for each in sorted((ROOT / folder).iterdir())):
        files.append(File.generated(config, f"files/{path.relative_to(ROOT)}", content=path.read_bytes()))
    for name, place in _OUTSIDE.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=relinked(text, ROOT, place)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let the links of a page lead to pages of the site."""
    place = page.file.src_uri
    if place in _OUTSIDE.values():
        return markdown
    return relinked(markdown, (ROOT / "docs" / place).parent, place)


def relinked(text: str, folder: Path, place: str) -> str:
    """A text of ``folder`` with links as the site has them; ``place`` is the page's own."""

    def link(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        if re.match(r"[a-z]+:", found[2]) or not target.exists():
            return found[0]
        there = _site_place(target)
        if there is None:
            return found[0]
        up = "../" * place.count("/")
        return f"{found[1]}{up}{there}{found[3] or ''}{found[4]}"

    return _LINK.sub(link, text)


def _site_place(target: Path) -> str | None:
    """Where the site has a file; None if it has not."""
    if target.parent == ROOT:
        return _OUTSIDE.get(target.name)
    if target.is_file() and target.parent.parent == ROOT and target.parent.name in _FOLDERS:
        return f"files/{target.relative_to(ROOT).as_posix()}"
    docs = ROOT / "docs"
    return target.relative_to(docs).as_posix() if target.is_relative_to(docs) else None
