"""What an agent makes of the migrations on record."""

from __future__ import annotations

import pytest

from holdover.agent.migration.job import ROLE
from holdover.agent.migration.migrations import Migrations
from holdover.config.agent_file import AgentConfig
from holdover.journal.memory import MemoryJournal
from holdover.journal.records import HandoverRecord
from tests.agent.migration.model import FakeHandovers, Fault, World


@pytest.mark.parametrize("is_open", [True, False])
def test_an_open_migration_whose_record_cannot_be_read_is_a_warning(is_open: bool) -> None:
    """Nothing drives it, so its guest may stand still: the log alone does not tell that."""
    record = HandoverRecord(
        handover_id="m1",
        guest="db1",
        role=ROLE,
        peer="host-b",
        state="committing",
        open=is_open,
        body=b'{"phase": "of a later version"}',
        at=1.0,
    )
    handovers = FakeHandovers(World(Fault.NOTHING, 0))
    migrations = Migrations(
        AgentConfig(name="host-a", initiator="iqn.2026-11.org.example:a"),
        {},
        None,  # type: ignore[arg-type]
        MemoryJournal(),
        handovers,  # type: ignore[arg-type]
        lambda _: None,
    )
    assert migrations.restore((record,)) == ()
    assert [text for text in migrations.warnings if "db1" in text and "m1" in text and "host-b" in text] == (
        list(migrations.warnings)
    )
    assert len(migrations.warnings) == is_open
