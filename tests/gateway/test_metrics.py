"""A tally tells a scraper exactly what prometheus_client's own histogram would."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from gateway.metrics import FastHistogram

BOUNDS = (0.005, 0.1, 1, 2.5, 60)
VALUES = st.one_of(st.sampled_from(BOUNDS), st.floats(0, 100))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["base", "mine"]), VALUES), max_size=30))
def test_it_says_what_the_librarys_histogram_says(seen: list[tuple[str, str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = FastHistogram("turntable_x_seconds", "Some time.", ("engine", "model"), BOUNDS, ours)
    histogram = Histogram("turntable_x_seconds", "Some time.", ("engine", "model"), buckets=BOUNDS, registry=theirs)
    for engine, model, value in seen:
        tally.labels(engine, model).observe(value)
        histogram.labels(engine, model).observe(value)
    lines = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(ours).decode().splitlines() == lines
