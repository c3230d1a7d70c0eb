"""Poison containment: what ran when an engine died is refused for a while, everybody else is not."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from gateway.errors import EngineFailedError, PoisonRequestError
from gateway.inference.poison_requests import PoisonRequests


@contextmanager
def watched(suspects: PoisonRequests, engine: str, fingerprint: int) -> Iterator[None]:
    """A request running on an engine."""
    run = suspects.began(engine, fingerprint)
    try:
        yield
    except Exception as error:
        suspects.ended(engine, run, error)
        raise
    suspects.ended(engine, run, None)


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_what_ran_at_the_death_is_refused_until_the_time_is_over() -> None:
    clock = Clock()
    suspects = PoisonRequests(60, clock)
    with watched(suspects, "engine-0", 1), watched(suspects, "engine-1", 2):
        suspects.engine_died("engine-0")
    with pytest.raises(PoisonRequestError, match="another 60 s") as refused:
        suspects.check(1)
    assert refused.value.status == 400
    assert (b"x-should-retry", b"false") in refused.value.headers()
    suspects.check(2)
    suspects.check(3)
    clock.now_s = 61
    suspects.check(1)


def test_a_request_that_failed_just_before_a_death_is_rejected_and_one_long_before_is_not() -> None:
    clock = Clock()
    suspects = PoisonRequests(60, clock)
    for fingerprint, at_s in ((1, 0.0), (2, 95.0)):
        clock.now_s = at_s
        with pytest.raises(EngineFailedError), watched(suspects, "engine-0", fingerprint):
            raise EngineFailedError("It failed.")
    clock.now_s = 100
    suspects.engine_died("engine-0")
    suspects.check(1)
    with pytest.raises(PoisonRequestError):
        suspects.check(2)


def test_what_met_an_engine_already_dead_is_innocent() -> None:
    clock = Clock()
    suspects = PoisonRequests(60, clock)
    with watched(suspects, "engine-0", 3), pytest.raises(EngineFailedError), watched(suspects, "engine-0", 1):
        raise EngineFailedError("It died.")
    clock.now_s = 1
    with pytest.raises(EngineFailedError), watched(suspects, "engine-0", 2):
        raise EngineFailedError("It is dead.")
    suspects.engine_died("engine-0")
    suspects.check(2)
    with pytest.raises(PoisonRequestError):
        suspects.check(1)


def test_an_answered_request_is_never_rejected() -> None:
    suspects = PoisonRequests(60)
    with watched(suspects, "engine-0", 1):
        pass
    suspects.engine_died("engine-0")
    suspects.check(1)
    assert len(suspects) == 0


def test_a_time_of_zero_rejects_no_request() -> None:
    suspects = PoisonRequests(0)
    with watched(suspects, "engine-0", 1):
        suspects.engine_died("engine-0")
    suspects.check(1)
