"""The routes of the agent's API about migrations. `Migrations` decides everything."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import Request, get, post
from litestar.datastructures import State
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath, JSONBody

from holdover.agent.api_description import BAD, MIGRATION, NOT_DONE, PEERS
from holdover.agent.host import Host
from holdover.agent.migration.migrations import MigrationProblem
from holdover.api.documents import Problem
from holdover.api.migration_documents import (
    MigrationCancel,
    MigrationChange,
    MigrationList,
    MigrationRequest,
    MigrationState,
    QemuAnswer,
    QemuRequest,
)
from holdover.pki.tls import certified_name


def migration_routes(host: Host) -> Sequence[BaseRouteHandler]:
    """The handlers of ``host``'s routes about migrations."""

    @get("/migrations", sync_to_thread=False, tags=[MIGRATION], responses=BAD, operation_id="list_migrations")
    def migrations() -> MigrationList:
        """The newest migration of each guest from this host."""
        return host.migrations.states()

    @get(
        "/guests/{name:str}/migration",
        sync_to_thread=False,
        tags=[MIGRATION],
        responses=NOT_DONE,
        operation_id="get_migration",
    )
    def newest(name: FromPath[str]) -> MigrationState:
        """The newest migration of a guest from this host."""
        state = host.migrations.state(name)
        if state is None:
            text = f"guest {name} has not been migrated from {host.config.name}"
            raise MigrationProblem(Problem(detail=text, host=host.config.name, guest=name))
        return state

    @post(
        "/guests/{name:str}/migration",
        status_code=200,
        tags=[MIGRATION],
        responses=NOT_DONE,
        operation_id="begin_migration",
    )
    async def begin(name: FromPath[str], data: JSONBody[MigrationRequest]) -> MigrationState:
        """Begin a migration. Answers at once. The same id again begins nothing new."""
        return await host.migrations.begin(name, data)

    @post(
        "/guests/{name:str}/migration/cancel",
        status_code=200,
        tags=[MIGRATION],
        responses=NOT_DONE,
        operation_id="cancel_migration",
    )
    async def cancel(name: FromPath[str], data: JSONBody[MigrationCancel]) -> MigrationState:
        """Let the guest stay. Answers when the migration has turned back."""
        return await host.migrations.cancel(name, data.migration_id)

    @post(
        "/guests/{name:str}/migration/change",
        status_code=200,
        tags=[MIGRATION],
        responses=NOT_DONE,
        operation_id="change_migration",
    )
    async def change(name: FromPath[str], data: JSONBody[MigrationChange]) -> MigrationState:
        """Change a migration that is under way."""
        return await host.migrations.change(name, data)

    @post("/peer/migration", status_code=200, tags=[PEERS], responses=BAD, operation_id="ask_qemu")
    async def receive(request: Request[object, object, State], data: JSONBody[QemuRequest]) -> QemuAnswer:
        """A question about the QEMU that takes a guest, from the source's agent."""
        server = request.scope.get("server")
        own = server[0] if server else ""
        return await host.migrations.receive(data, certified_name(request.scope) or "", own)

    return (migrations, newest, begin, cancel, change, receive)
