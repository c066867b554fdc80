"""The wheel has every file of the package; the sdist has all that a wheel, the tests and the site need."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BUILD = "import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))"


def build(sources: Path, what: str, into: Path) -> Path:
    """A distribution, built with this environment's setuptools, as a front end builds it."""
    command = [sys.executable, "-c", _BUILD, what, str(into)]
    done = subprocess.run(command, cwd=sources, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return into / done.stdout.splitlines()[-1]


def tracked() -> list[str]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("the list of files comes from git")
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist of this tree, and the wheel that is built from the sdist alone."""
    folder = tmp_path_factory.mktemp("distributions")
    sources = folder / "sources"
    for name in tracked():
        (sources / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, sources / name)
    sdist = build(sources, "build_sdist", folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return sdist, build(unpacked, "build_wheel", folder)


def test_the_sdist_has_every_file_of_the_project(distributions: tuple[Path, Path]) -> None:
    with tarfile.open(distributions[0]) as archive:
        there = {name.partition("/")[2] for name in archive.getnames()}
    assert [name for name in tracked() if name not in there and name != ".gitignore"] == []


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(distributions: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(distributions[1]) as archive:
        there = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert there == {name.removeprefix("src/") for name in tracked() if name.startswith("src/")}
