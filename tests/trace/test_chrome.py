"""Chrome Trace Event JSON."""

from __future__ import annotations

import json

import pytest

from holdover.trace.chrome import chrome_trace
from tests.trace.traces import handover


def test_every_interval_and_instant_is_an_event_on_a_named_thread() -> None:
    trace = handover()
    document = json.loads(chrome_trace(trace))
    events = document["traceEvents"]
    complete = [each for each in events if each["ph"] == "X"]
    instants = [each for each in events if each["ph"] == "i"]
    assert len(complete) == len(trace.intervals)
    assert len(instants) == len(trace.instants)
    named = {
        (each["pid"], each["tid"]): each["args"]["name"] for each in events if each["name"] == "thread_name"
    }
    processes = {each["pid"]: each["args"]["name"] for each in events if each["name"] == "process_name"}
    assert set(processes.values()) == {"a", "b", "holdover migrate"}
    assert {(each["pid"], each["tid"]) for each in (*complete, *instants)} <= named.keys()
    (preempt, _) = (each for each in complete if each["name"] == "PREEMPT")
    assert preempt["dur"] == pytest.approx(1000, abs=0.01)
    assert min(each["ts"] for each in complete) == 0
    assert document["otherData"]["clock shifts in seconds"]["b"] == pytest.approx(-100, abs=0.01)
