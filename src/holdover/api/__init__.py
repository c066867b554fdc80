"""The API of an agent: its documents, its client, and who may do what.

Programs of others may import what this package exports. Its meaning changes only with the first number of
`API_VERSION`. An example is in docs/reference/api.md.

The routes are in `agent.server`, because they need the agent. This package imports `config`, `pki` and
`handover`. `migrate`, `agent`, `demo` and `cli` may import it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdover.api.client import (
        AgentClient,
        AgentError,
        AgentRefused,
    )
    from holdover.api.documents import (
        DeviceState,
        GuestState,
        HandoverState,
        HostState,
        LunState,
        Problem,
        SessionState,
        Span,
        Stale,
    )
    from holdover.api.migration_documents import (
        GuestStarted,
        MigrationChange,
        MigrationList,
        MigrationOptions,
        MigrationRequest,
        MigrationState,
        StartRequest,
    )
    from holdover.api.version import (
        API_VERSION,
    )
    from holdover.pki.tls import (
        ClientTls,
        Credentials,
        TlsFiles,
    )

__all__ = [
    "API_VERSION",
    "AgentClient",
    "AgentError",
    "AgentRefused",
    "ClientTls",
    "Credentials",
    "DeviceState",
    "GuestStarted",
    "GuestState",
    "HandoverState",
    "HostState",
    "LunState",
    "MigrationChange",
    "MigrationList",
    "MigrationOptions",
    "MigrationRequest",
    "MigrationState",
    "Problem",
    "SessionState",
    "Span",
    "Stale",
    "StartRequest",
    "TlsFiles",
]

_MODULES = {
    "AgentClient": "holdover.api.client",
    "AgentError": "holdover.api.client",
    "AgentRefused": "holdover.api.client",
    "DeviceState": "holdover.api.documents",
    "GuestState": "holdover.api.documents",
    "HandoverState": "holdover.api.documents",
    "HostState": "holdover.api.documents",
    "LunState": "holdover.api.documents",
    "Problem": "holdover.api.documents",
    "SessionState": "holdover.api.documents",
    "Span": "holdover.api.documents",
    "Stale": "holdover.api.documents",
    "GuestStarted": "holdover.api.migration_documents",
    "MigrationChange": "holdover.api.migration_documents",
    "MigrationList": "holdover.api.migration_documents",
    "MigrationOptions": "holdover.api.migration_documents",
    "MigrationRequest": "holdover.api.migration_documents",
    "MigrationState": "holdover.api.migration_documents",
    "StartRequest": "holdover.api.migration_documents",
    "API_VERSION": "holdover.api.version",
    "ClientTls": "holdover.pki.tls",
    "Credentials": "holdover.pki.tls",
    "TlsFiles": "holdover.pki.tls",
}


def __getattr__(name: str) -> object:
    # The client takes long to import, and most commands need only a document.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
