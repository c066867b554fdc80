"""libvirt's Python modules, which are optional: from the agent's own packages, or as the system has them."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any

SYSTEM_FOLDERS = (
    "/usr/lib/python3/dist-packages",
    f"/usr/lib64/python{sys.version_info.major}.{sys.version_info.minor}/site-packages",
)
"""Where distributions put python3-libvirt. No other module is taken from there."""
_MODULES = ("libvirtmod", "libvirt", "libvirtmod_qemu", "libvirt_qemu")
"""Each needs those before it."""


def load_libvirt(folders: Sequence[str] = SYSTEM_FOLDERS) -> tuple[Any, Any] | None:
    """The modules ``libvirt`` and ``libvirt_qemu``; None if this Python cannot have them."""
    try:
        loaded = [importlib.import_module(name) for name in _MODULES]
    except ImportError:
        try:
            loaded = [_load(name, folders) for name in _MODULES]
        except ImportError:
            return None
    return loaded[1], loaded[3]


def _load(name: str, folders: Sequence[str]) -> Any:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.machinery.PathFinder.find_spec(name, folders)
    if spec is None or spec.loader is None:
        raise ImportError(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
