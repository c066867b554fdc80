"""The limit on descriptors, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

_RAISES = """
import resource
from holdover.cli.daemons.descriptors import raise_descriptor_limit

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, most))
raise_descriptor_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, most)
"""


def test_it_is_the_most_that_is_allowed() -> None:
    subprocess.run([sys.executable, "-c", _RAISES], check=True)
