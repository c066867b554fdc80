"""A trace as Chrome Trace Event JSON, which Perfetto and about:tracing open."""

from __future__ import annotations

import msgspec

from holdover.trace.rows import rows_of
from holdover.trace.trace import Trace


def chrome_trace(trace: Trace) -> bytes:
    """The trace in the JSON Object Format: a process for each host, a thread for each row, microseconds."""
    events: list[dict[str, object]] = []
    zero = trace.began
    processes: dict[str, int] = {}
    for thread, row in enumerate(rows_of(trace), 1):
        if row.host not in processes:
            process = processes[row.host] = len(processes) + 1
            events.append(_name("process_name", process, 0, row.host))
        process = processes[row.host]
        events.append(_name("thread_name", process, thread, row.title))
        events.append(
            {
                "ph": "M",
                "name": "thread_sort_index",
                "pid": process,
                "tid": thread,
                "args": {"sort_index": thread},
            }
        )
        place = {"pid": process, "tid": thread}
        for each in row.intervals:
            events.append(
                {
                    "ph": "X",
                    "name": each.name,
                    "cat": each.kind.value,
                    "ts": round((each.began - zero) * 1e6, 3),
                    "dur": round((each.ended - each.began) * 1e6, 3),
                    "args": {"lun": each.lun, "detail": each.detail},
                    **place,
                }
            )
        for instant in row.instants:
            events.append(
                {
                    "ph": "i",
                    "s": "p",
                    "name": instant.name,
                    "cat": "qemu",
                    "ts": round((instant.at - zero) * 1e6, 3),
                    "args": {"detail": instant.detail},
                    **place,
                }
            )
    document = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "guest": trace.guest,
            "handover_id": trace.handover_id,
            "source": trace.source,
            "destination": trace.destination,
            "began": zero,
            "clock shifts in seconds": {each.host: each.seconds for each in trace.shifts},
        },
    }
    return msgspec.json.encode(document)


def _name(what: str, process: int, thread: int, name: str) -> dict[str, object]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}
