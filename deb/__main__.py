"""Build the Debian package.

    python -m deb [--out FOLDER] [--revision N] [--python INTERPRETER]

The package is written to dist/. Its packages of Python come from the index that pip is configured with.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from deb.build import ROOT, BuildError, Interpreter, debian_version, make_tree, pack


def main() -> None:
    """Build it, and print the path of the file."""
    parser = argparse.ArgumentParser(prog="python -m deb", description="Build the Debian package.")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="the folder for the file")
    parser.add_argument("--revision", default="1", help="the revision of the package")
    parser.add_argument("--python", type=Path, default=Path("/usr/bin/python3"), help="Debian's interpreter")
    chosen = parser.parse_args()
    try:
        interpreter = Interpreter.find(chosen.python)
        with tempfile.TemporaryDirectory(prefix="holdover-deb-") as folder:
            tree = Path(folder) / "tree"
            make_tree(tree, interpreter, Path(folder))
            print(pack(tree, chosen.out, debian_version(chosen.revision), interpreter))
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
