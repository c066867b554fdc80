"""The reference of the metrics, made from the agent's own table."""

from __future__ import annotations

from holdover.metrics.definitions import METRICS, NAMED_MOST, Metric

_HEAD = f"""# Metrics

Every metric of an agent, made from the code (`make reference`). [Monitoring](../how-to/monitoring.md) says
where to read them, which values the labels have, and which alerts there are.

A series with the name of a guest exists only while something is wrong with that guest, and each metric has
at most {NAMED_MOST} of them: an agent may have thousands of guests. The usual metrics of a process
(`process_cpu_seconds_total`, `process_resident_memory_bytes`, `process_open_fds` and others) are there too.
Counters begin at 0 when the agent starts.

| metric | type | labels | what it says |
| --- | --- | --- | --- |
"""


def metrics_page() -> str:
    """The whole page."""
    return _HEAD + "".join(_row(each) for each in METRICS)


def _row(each: Metric) -> str:
    labels = ", ".join(f"`{label}`" for label in each.labels)
    cells = (f"`{each.name}`", each.kind.value, labels, each.says.replace("|", "\\|"))
    return f"| {' | '.join(cells)} |\n".replace("|  |", "| |")
