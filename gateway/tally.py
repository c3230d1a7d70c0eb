"""A histogram that costs a request almost nothing: counted on the event loop alone, so without the locks of
prometheus_client's own, which takes two for each observation.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class Series:
    """The observations under one set of labels."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """By bucket, each without those below it; the last one has no upper bound."""
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value in the bucket of the lowest bound that is not below it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Tally(Collector):
    """A histogram of prometheus_client's kind; one thread observes, any may collect."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._text = text
        self._labels = labels
        self._bounds = bounds
        self._names = [*(str(float(bound)) for bound in bounds), "+Inf"]
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values, begun when it is new."""
        return self._series.setdefault(values, Series(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All series as they are now."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, series in list(self._series.items()):
            so_far, buckets = 0, []
            for name, count in zip(self._names, series.counts[:], strict=True):
                so_far += count
                buckets.append((name, so_far))
            family.add_metric(values, buckets, series.total)
        yield family
