"""The circuit breaker, with a clock that the test turns."""

from gateway.engines.circuit_breaker import Breaker, Circuit


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(3):
        breaker.begin()
        breaker.failed()
    return breaker, clock


def test_two_failures_are_not_enough_and_a_success_forgets_them() -> None:
    breaker = Breaker(Clock())
    for _ in range(10):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state is Circuit.CLOSED
    assert breaker.allows


def test_the_third_failure_in_a_row_opens_the_circuit_for_a_while() -> None:
    breaker, clock = opened()
    assert (breaker.state, breaker.allows) == (Circuit.OPEN, False)
    clock.now_s = 1.0
    assert (breaker.state, breaker.allows) == (Circuit.HALF_OPEN, True)


def test_half_open_lets_one_trial_through_at_a_time() -> None:
    breaker, clock = opened()
    clock.now_s = 1.0
    breaker.begin()
    assert not breaker.allows
    breaker.abandoned()
    assert breaker.allows
    breaker.begin()
    breaker.succeeded()
    assert breaker.state is Circuit.CLOSED


def test_each_failed_trial_doubles_the_pause_up_to_a_limit() -> None:
    breaker, clock = opened()
    for pause_s in (1, 2, 4, 8, 16, 30, 30):
        clock.now_s += pause_s - 0.01
        assert not breaker.allows
        clock.now_s += 0.02
        assert breaker.allows
        breaker.begin()
        breaker.failed()
