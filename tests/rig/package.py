"""The Debian package, built from this tree for tests: two revisions, so that one is an upgrade."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from deb.build import BuildError, Interpreter, debian_version, make_tree, pack


def build_packages(folder: Path, *revisions: str) -> list[Path]:
    """The files of some revisions of the package, made in ``folder``; they differ in their version alone.

    HOLDOVER_DEB names a folder that has the package's tree, so that a second run need not build it again.
    """
    folder = Path(os.environ.get("HOLDOVER_DEB") or folder)
    try:
        interpreter = Interpreter.find(Path("/usr/bin/python3"))
        tree = folder / "tree"
        if not tree.exists():
            make_tree(tree, interpreter, folder)
        # xz takes ten times as long as gzip
        return [
            pack(tree, folder, debian_version(each), interpreter, compression="gzip") for each in revisions
        ]
    except BuildError as error:
        pytest.fail(str(error))
