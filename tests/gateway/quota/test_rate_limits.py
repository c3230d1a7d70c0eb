"""Limits: all accounts let a request through or none is touched, and headers say exactly what is let through."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.auth import Account, Limits
from gateway.core import MOST_TOKENS
from gateway.errors import InvalidRequestError
from gateway.inference.formats import APIS
from gateway.quota import RateLimiter, RequestSize, measure_request
from gateway.quota.errors import RateLimitError
from gateway.quota.rate_limits import duration
from tests.gateway.quota.manual_clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def account(name: str = "key:k", **limits: int) -> Account:
    return Account(name, Limits(**limits), ())


def headers_of(limiter: RateLimiter, *accounts: Account) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in limiter.headers(accounts)}


def let_through(limiter: RateLimiter, accounts: tuple[Account, ...], tokens: int = 0, most: int = 10_000) -> int:
    """How many requests are let through until one is refused."""
    for count in range(most):
        try:
            limiter.take(accounts, tokens).end(tokens)
        except RateLimitError:
            return count
    return most


@settings(max_examples=60, deadline=None)
@given(
    rpm=st.integers(1, 500),
    tpm=st.integers(1, 5000),
    tokens=st.integers(1, 50),
    used=st.integers(0, 300),
    rest_s=st.floats(0, 90),
    gateways=st.integers(1, 3),
)
def test_what_the_headers_say_remains_is_exactly_what_is_let_through(
    rpm: int, tpm: int, tokens: int, used: int, rest_s: float, gateways: int
) -> None:
    clock = Clock()
    limiter, one = RateLimiter(clock), account(rpm=rpm, tpm=tpm)
    limiter.gateways = gateways
    for _ in range(used):
        let_through(limiter, (one,), tokens, most=1)
    clock.pass_s(rest_s)
    told = headers_of(limiter, one)
    requests, left = int(told["x-ratelimit-remaining-requests"]), int(told["x-ratelimit-remaining-tokens"])
    each = min(tokens, limiter.share(tpm))  # what asks for more than fits at all waits until all is there
    assert let_through(limiter, (one,), tokens) == min(requests, left // each)


def test_a_bucket_is_full_when_the_header_says_and_a_request_passes_when_the_error_says(clock: Clock) -> None:
    limiter, one = RateLimiter(clock), account(rpm=7)
    assert let_through(limiter, (one,)) == 7
    assert headers_of(limiter, one)["x-ratelimit-reset-requests"] == "1m0s"
    with pytest.raises(RateLimitError) as refused:
        limiter.take((one,), 0)
    assert str(refused.value) == "Rate limit reached for this key: 7 requests per minute. Try again in 8.572 s."
    told = dict(refused.value.headers())
    assert (told[b"retry-after"], told[b"retry-after-ms"], told[b"x-should-retry"]) == (b"9", b"8572", b"true")
    clock.pass_s(8.571)
    assert let_through(limiter, (one,)) == 0
    clock.pass_s(0.001)
    assert let_through(limiter, (one,)) == 1
    clock.pass_s(60)
    assert headers_of(limiter, one)["x-ratelimit-remaining-requests"] == "7"
    assert headers_of(limiter, one)["x-ratelimit-reset-requests"] == "0ms"


@pytest.mark.parametrize(
    ("ns", "told"),
    [(0, "0ms"), (1, "1ms"), (12_000_000, "12ms"), (10**9, "1s"), (1_500_000_000, "1.5s"), (6 * 60 * 10**9, "6m0s")],
)
def test_durations_are_written_as_openai_writes_them(ns: int, told: str) -> None:
    assert duration(ns) == told


@pytest.mark.parametrize("limits", [{"rpm": 1}, {"tpm": 10}, {"max_concurrency": 1}])
def test_what_the_tenant_refuses_costs_the_key_nothing(clock: Clock, limits: dict[str, int]) -> None:
    limiter = RateLimiter(clock)
    key, tenant = account(rpm=100, tpm=1000, max_concurrency=5), account("tenant:t", **limits)
    running = limiter.take((tenant,), 10)
    before = headers_of(limiter, key)
    for _ in range(20):
        with pytest.raises(RateLimitError, match="for this key's tenant"):
            limiter.take((key, tenant), 10)
    assert headers_of(limiter, key) == before
    assert limiter.meters["key:k"].running == 0
    running.end(None)  # it never got as far as the engine, so it does not count either
    assert let_through(limiter, (key, tenant), 10) == 1 if "max_concurrency" not in limits else True


def test_tokens_are_corrected_by_what_was_really_used(clock: Clock) -> None:
    limiter, one = RateLimiter(clock), account(tpm=1000)
    limiter.take((one,), 600).end(100)
    assert headers_of(limiter, one)["x-ratelimit-remaining-tokens"] == "900"
    limiter.take((one,), 900).end(1500)
    assert headers_of(limiter, one)["x-ratelimit-remaining-tokens"] == "0"
    clock.pass_s(36)  # the debt of 600 is paid off first
    assert let_through(limiter, (one,), 1) == 0
    clock.pass_s(0.06)
    assert let_through(limiter, (one,), 1) == 1


def test_headers_describe_the_bucket_with_the_least_remaining_and_are_absent_without_limits(clock: Clock) -> None:
    limiter = RateLimiter(clock)
    take = limiter.take((account(rpm=10), account("tenant:t", rpm=5)), 0)
    assert dict(take.headers)[b"x-ratelimit-limit-requests"] == b"5"
    assert dict(take.headers)[b"x-ratelimit-remaining-requests"] == b"4"
    assert limiter.take((account("key:free"),), 5).headers == []


FIELDS = {"/v1/chat/completions": "max_completion_tokens", "/v1/responses": "max_output_tokens"}
BODIES: list[tuple[str, dict[str, object]]] = [
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/completions", {"prompt": ["hi", "ho"]}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}),
]


@pytest.mark.parametrize(("path", "body"), BODIES)
@pytest.mark.parametrize("most", [3, 10])
def test_a_request_gets_the_maximum_of_its_key_and_may_not_ask_for_more(
    path: str, body: dict[str, object], most: int
) -> None:
    api = APIS[path]
    field = {"/v1/chat/completions": "max_completion_tokens", "/v1/responses": "max_output_tokens"}.get(
        path, "max_tokens"
    )
    if path != "/v1/messages":  # which always names one
        request = api.parse(orjson.dumps({"model": "base"} | body), "base")
        demand = measure_request(api, request, most)
        request.token_limit = demand.added_limit
        sent = orjson.loads(api.engine_body(request, "base"))
        assert sent[field] == demand.answer_tokens == most
        assert field not in request.document
        assert demand.most_answer_tokens(None) == most * (2 if path == "/v1/completions" else 1)
        free = api.parse(orjson.dumps({"model": "base"} | body), "base")
        in_context = measure_request(
            api, free, 50, context_tokens=40
        )  # the engine refuses who asks for more than it has
        assert in_context.added_limit is None or in_context.added_limit[1] <= 40
        assert in_context.most_answer_tokens(40) in (40, 32)
    request = api.parse(orjson.dumps({"model": "base"} | body | {field: most + 1}), "base")
    with pytest.raises(InvalidRequestError, match=f"'{field}' is {most + 1}, but this key allows at most {most}"):
        measure_request(api, request, most)


@pytest.mark.parametrize("value", ["1000", 10.5, True, -1, [5]])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n"])
def test_numbers_that_only_the_engine_would_read_as_such_are_refused(name: str, value: object) -> None:
    api = APIS["/v1/chat/completions"]
    body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], name: value}
    with pytest.raises(InvalidRequestError, match=f"'{name}' (must be a whole number|is -1; it must be at least)"):
        api.parse(orjson.dumps(body), "base")


@pytest.mark.parametrize("most", [2**31 - 1, 2**63 - 1])
def test_no_request_counts_for_more_tokens_than_sums_in_a_database_bear(most: int) -> None:
    demand = RequestSize(body_bytes=8 << 20, answers=128, answer_tokens=most)
    assert demand.likely_tokens() == MOST_TOKENS
    assert 1_000_000 * demand.likely_tokens() < 2**63


def test_the_field_that_the_engine_obeys_is_the_one_that_counts() -> None:
    api = APIS["/v1/chat/completions"]
    body = {"model": "base", "messages": [{"role": "user"}], "max_tokens": 1, "max_completion_tokens": 900, "n": 3}
    demand = measure_request(api, api.parse(orjson.dumps(body), "base"), None)
    assert demand.most_answer_tokens(None) == 2700
    assert demand.most_answer_tokens(100) == 300
