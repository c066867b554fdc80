"""What the fork server of `forked` does once, so that no program does it again.

multiprocessing ignores a module that it cannot import, so `test_forked.py` looks whether `MODULES` are there.
"""

from __future__ import annotations

import gc
import importlib

from typer.main import get_command

from holdover.cli.main import app
from tests.rig.forked import MODULES

for _module in MODULES:
    importlib.import_module(_module)
get_command(app)
# the collector of a program does not touch what is here, so the memory stays shared
gc.collect()
gc.freeze()
