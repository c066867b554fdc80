"""The text format of Prometheus, made from readings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import prometheus_client
from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.core import Metric as Family

from holdover.metrics.definitions import Metric, MetricType
from holdover.metrics.durations import Durations

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of a metric, with a value for each of its labels."""

    metric: Metric
    value: float | Durations
    labels: tuple[str, ...] = ()


def text_of(readings: Iterable[Sample]) -> bytes:
    """The page that Prometheus reads, with the usual metrics of this process at its end."""
    found = cast(CollectorRegistry, _Readings(tuple(readings)))
    return prometheus_client.generate_latest(found) + prometheus_client.generate_latest(_PROCESS)


class _Readings:
    """What `generate_latest` asks of a registry."""

    def __init__(self, readings: Sequence[Sample]) -> None:
        self._readings = readings

    def collect(self) -> Iterator[Family]:
        families: dict[str, Family] = {}
        for reading in self._readings:
            name = reading.metric.name
            if name not in families:
                families[name] = _family(reading.metric)
            _add(families[name], reading)
        yield from families.values()


def _family(metric: Metric) -> Family:
    made: type[GaugeMetricFamily] | type[CounterMetricFamily] | type[HistogramMetricFamily] = {
        MetricType.GAUGE: GaugeMetricFamily,
        MetricType.COUNTER: CounterMetricFamily,
        MetricType.HISTOGRAM: HistogramMetricFamily,
    }[metric.kind]
    return made(metric.name, metric.says, labels=metric.labels)


def _add(family: Family, reading: Sample) -> None:
    if isinstance(reading.value, Durations):
        buckets, total = reading.value.buckets()
        cast(HistogramMetricFamily, family).add_metric(reading.labels, buckets, total)
    else:
        cast(GaugeMetricFamily, family).add_metric(reading.labels, reading.value)


_PROCESS = CollectorRegistry()
prometheus_client.ProcessCollector(registry=_PROCESS)
