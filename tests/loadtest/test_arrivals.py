"""Who is sent when, with a clock that only moves when a request takes time."""

from itertools import islice

import numpy as np
import pytest

from loadtest.arrivals import Rate, closed_loop, offsets_s, open_loop, poisson_offsets
from loadtest.errors import InvalidWorkloadError
from loadtest.workload import RequestSpec


class FakeServer:
    """Takes two seconds of its own clock per request and keeps the times it saw."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s
        self.intended_s: list[float] = []
        self.sent_s: list[float] = []
        self.lag_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def send(self, spec: RequestSpec, intended_s: float, lag_s: float) -> None:
        self.intended_s.append(intended_s)
        self.sent_s.append(self.now_s)
        self.lag_s.append(lag_s)
        self.now_s += 2


def specs(count: int) -> list[RequestSpec]:
    return [RequestSpec(index, "base", [], 1) for index in range(count)]


async def test_an_open_loop_keeps_the_intended_times_when_the_client_is_late() -> None:
    server = FakeServer(now_s=100.0)
    await open_loop(iter(specs(3)), [1.0, 2.0, 3.0], None, server.clock, server.send)
    assert server.intended_s == [1.0, 2.0, 3.0]
    assert server.sent_s == [100.0, 102.0, 104.0]


async def test_waiting_for_room_in_a_capped_open_loop_does_not_move_the_intended_time() -> None:
    server = FakeServer()
    await open_loop(iter(specs(3)), [0.0, 0.0, 0.0], 1, server.clock, server.send)
    assert server.intended_s == [0.0, 0.0, 0.0]
    assert server.sent_s == [0.0, 2.0, 4.0]


async def test_a_closed_loop_worker_means_to_send_when_it_is_free() -> None:
    server = FakeServer()
    await closed_loop(iter(specs(3)), 1, server.clock, server.send)
    assert server.intended_s == server.sent_s == [0.0, 2.0, 4.0]


async def test_workers_share_the_requests() -> None:
    server = FakeServer()
    await closed_loop(iter(specs(10)), 4, server.clock, server.send)
    assert len(server.sent_s) == 10


def test_poisson_gaps_have_the_mean_and_spread_of_their_rate() -> None:
    offsets_s = np.array(list(islice(poisson_offsets(rate_per_s=50.0, seed=7), 20_000)))
    gaps_s = np.diff(offsets_s)
    assert gaps_s.min() > 0
    assert gaps_s.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps_s.std() == pytest.approx(1 / 50, rel=0.05)


def test_the_same_seed_gives_the_same_arrivals() -> None:
    first, again, other = (list(islice(poisson_offsets(5.0, seed), 20)) for seed in (1, 1, 2))
    assert first == again != other


async def test_an_open_loop_notes_how_late_it_was_itself() -> None:
    server = FakeServer(now_s=1.5)
    await open_loop(iter(specs(2)), [1.0, 3.5], None, server.clock, server.send)
    assert server.lag_s == [0.5, 0.0]


async def test_a_closed_loop_sends_nothing_after_its_time() -> None:
    server = FakeServer()
    await closed_loop(iter(specs(10)), 1, server.clock, server.send, until_s=5)
    assert server.sent_s == [0.0, 2.0, 4.0]


async def test_a_user_thinks_between_two_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer()

    async def think(pause_s: float) -> None:
        server.now_s += pause_s

    monkeypatch.setattr("loadtest.arrivals.asyncio.sleep", think)
    await closed_loop(iter(specs(3)), 1, server.clock, server.send, think_s=7)
    assert server.sent_s == [0.0, 9.0, 18.0]


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert list(islice(offsets_s(Rate(4, 4), None, seed=0), 4)) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gamma_gaps_vary_as_their_shape_says(shape: float) -> None:
    gaps_s = np.diff(list(islice(offsets_s(Rate(10, 10), shape, seed=3), 40_000)))
    assert gaps_s.mean() == pytest.approx(0.1, rel=0.05)
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(shape**-0.5, rel=0.05)


@pytest.mark.parametrize("ramp", ["2:10:60", "10:2:60", "5:5:60"])
def test_a_ramp_sends_what_its_rate_adds_up_to(ramp: str) -> None:
    rate = Rate.parse(ramp)
    in_ramp = (rate.start_per_s + rate.end_per_s) / 2 * 60
    assert rate.when(in_ramp) == pytest.approx(60)
    assert rate.when(in_ramp + rate.end_per_s) == pytest.approx(61)
    # Half of the time brings the mean of the first half.
    middle = (rate.start_per_s + rate.end_per_s) / 2
    assert rate.when((rate.start_per_s + middle) / 2 * 30) == pytest.approx(30)


def test_a_ramp_may_start_from_nothing() -> None:
    assert Rate.parse("0:2:10").when(10) == pytest.approx(10)


@pytest.mark.parametrize("ramp", ["", "1:2", "1:0:5", "a:b:c", "1:2:-3", "1:inf:2", "nan:1:1"])
def test_a_ramp_of_no_sense_is_refused(ramp: str) -> None:
    with pytest.raises(InvalidWorkloadError, match="--ramp must look like"):
        Rate.parse(ramp)
