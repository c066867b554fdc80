"""Write the pages that are made from the code: `make reference`."""

from __future__ import annotations

from pages.commands_page import commands_page
from pages.configuration_page import configuration_page
from pages.files_page import files_page
from pages.hooks import ROOT
from pages.metrics_page import metrics_page
from pages.runbook_page import runbook_page
from pages.states_page import states_page

MADE = {
    "docs/operate/runbook.md": runbook_page,
    "docs/reference/commands.md": commands_page,
    "docs/reference/configuration.md": configuration_page,
    "docs/reference/files.md": files_page,
    "docs/reference/metrics.md": metrics_page,
    "docs/understand/handover-states.md": states_page,
}
"""Each page that is made from the code, and what makes it."""


def main() -> None:
    """Write them all."""
    for name, make in MADE.items():
        page = ROOT / name
        page.parent.mkdir(exist_ok=True)
        page.write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
