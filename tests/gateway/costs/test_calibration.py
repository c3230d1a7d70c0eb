"""Calibration: the weights that were put in come out, against a mock engine and against noise."""

import threading
from random import Random

import httpx
import orjson
import pytest
from typer.testing import CliRunner

from gateway.cli.costs import app as costs_app
from gateway.core import Usage
from gateway.costs.calibration import Batch, design, fit
from gateway.costs.request_price import Weights, WorkPrice
from gateway.errors import InvalidRequestError
from tests.gateway.conftest import KEY, Attached
from tests.waiting import wait_until


def batches(prompt_us: float, cached_us: float, output_us: float, noise: float = 0.0) -> list[Batch]:
    choose, found = Random(3), []
    for shape in design(160, 64) * 3:
        cached = shape.prompt_words * 30 if shape.is_cached else choose.randrange(50)
        prompt, output = shape.prompt_words * (4 if shape.is_cached else 32), shape.output_tokens * 32
        busy = prompt * prompt_us + cached * cached_us + output * output_us
        found.append(Batch(prompt, cached, output, round(busy * (1 + choose.uniform(-noise, noise)))))
    return found


def test_exact_batches_give_back_the_weights_that_made_them() -> None:
    found = fit(batches(20, 2, 300))
    assert (found.prompt_ps, found.cached_ps, found.output_ps) == pytest.approx((20e6, 2e6, 300e6), rel=1e-3)
    assert found.error_share < 1e-4


def test_noise_is_stated_as_error_and_weights_stay_near() -> None:
    found = fit(batches(20, 2, 300, noise=0.1))
    assert 0.01 < found.error_share < 0.1
    assert found.output_ps == pytest.approx(300e6, rel=0.1)
    assert 0.95 < found.r_squared < 1


def test_no_kind_of_token_gives_time_back() -> None:
    found = fit(batches(20, -5, 300))
    assert found.cached_ps == 0
    assert found.prompt_ps > 0


def test_batches_that_look_alike_cannot_be_fitted() -> None:
    with pytest.raises(InvalidRequestError, match="cannot tell the kinds of tokens apart"):
        fit([Batch(100, 0, 10, 1000)] * 8)


def test_the_design_varies_every_kind_apart() -> None:
    shapes = design(160, 64)
    assert len({(shape.prompt_words, shape.output_tokens, shape.is_cached) for shape in shapes}) == 8


def test_a_request_costs_its_engine_time_at_the_price_of_the_hour() -> None:
    weights = Weights(20_000_000, 1_000_000, 300_000_000, is_measured=True)
    price = WorkPrice.calibrated(weights, 3_600 * 10**9)  # a dollar per second
    assert price.cost_nano_usd(Usage(1000, 10, 400)) == 600 * 20_000 + 400 * 1_000 + 10 * 300_000
    assert WorkPrice().cost_nano_usd(Usage(1, 1)) is None
    assert WorkPrice.recent(weights, 100, 0).cost_nano_usd(Usage(1, 1)) is None


def test_the_command_measures_over_http_and_the_gateway_goes_by_it(attached: Attached) -> None:
    """The mock engine takes 5 ms a token, whatever else runs: eight at a time, a token takes 625 us of it."""
    wait_until(lambda: attached.http.get("/admin/v1/costs").json()["engine_up_s"])  # the gateway may just have started
    environment = {"TURNTABLE_ADMIN_KEY": KEY, "COLUMNS": "200"}
    options = ["--gateway", attached.url, "--json", "--concurrency", "8", "--requests", "8", "--repeats", "1"]
    result = CliRunner().invoke(costs_app, ["calibrate", *options, "--output-tokens", "32"], env=environment)
    assert result.exit_code == 0, result.output
    fact = orjson.loads(result.stdout)
    assert fact["batches"] in (8, 16, 24)  # more where this machine is busy with other things
    assert 300e6 < fact["output_ps"] < 3_000e6
    assert attached.http.get("/admin/v1/costs").json()["weights"].startswith("measured on ")
    assert attached.http.get("/admin/v1/costs/evidence").json()["weights"]["output_ps"] == fact["output_ps"]


def test_requests_of_others_do_not_end_a_calibration(attached: Attached) -> None:
    """With constant traffic, batches are retried, then counted together with it."""
    is_over, asked = threading.Event(), []

    def ask() -> None:
        with httpx.Client(base_url=attached.url, headers=attached.http.headers, timeout=20) as http:
            while not is_over.is_set():
                body = {"model": "base", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
                asked.append(http.post("/v1/chat/completions", json=body).status_code)

    somebody = threading.Thread(target=ask)
    somebody.start()
    try:
        options = ["--gateway", attached.url, "--json", "--requests", "8", "--output-tokens", "32"]
        result = CliRunner().invoke(costs_app, ["calibrate", *options], env={"TURNTABLE_ADMIN_KEY": KEY})
    finally:
        is_over.set()
        somebody.join()
    assert result.exit_code == 0, result.output
    assert set(asked) == {200}
    announced, *progress = result.stderr.splitlines()
    assert announced.startswith("8 batches of 8 requests, about ")
    assert any("requests of other clients" in line for line in progress)
    assert sum(line.startswith("batch ") for line in progress) in (8, 16, 24)


def test_evidence_that_makes_no_sense_is_refused(attached: Attached) -> None:
    bad = attached.http.post("/admin/v1/costs/evidence/capacity", json={"slo_per_s": -1})
    assert bad.status_code == 400
    assert "'slo_per_s'" in bad.json()["error"]["message"]
    assert attached.http.post("/admin/v1/costs/evidence/colour", json={}).status_code == 400
