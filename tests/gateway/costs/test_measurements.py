"""Measurements from files that our own tools write: capacity from a load test, quality from a comparison."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from gateway.cli.costs import app as costs_app
from gateway.costs.evidence import EvidenceKind, from_file
from gateway.errors import InvalidRequestError
from loadtest.capacity import Bracket, SloLimits, conclusion
from loadtest.records import RequestRecord
from loadtest.report import report_of_records
from loadtest.settings import RunSettings
from loadtest.study import Level, Study
from tests.gateway.conftest import KEY, Attached
from trainer.eval.report import (
    Arm,
    ArmCost,
    ArmKind,
    BaseFacts,
    ComparisonReport,
    Examples,
    Gate,
    Latency,
    MetricResult,
    TaskFacts,
    Tokens,
)


def level(rate: float, answered: int) -> Level:
    """One probe: `answered` requests of 100 tokens in and 20 out."""
    at = [n / rate for n in range(answered)]
    records = [RequestRecord(n, "base", t, t, t + 0.1, 200, [t + 0.05]) for n, t in enumerate(at)]
    for record in records:
        record.prompt_tokens, record.completion_tokens = 100, 20
    report = report_of_records(records, RunSettings(url="http://x", models=("base",), rate_per_s=rate))
    return Level(f"{rate:.4g} req/s", rate, [report])


def capacity_study() -> dict[str, Any]:
    levels = [level(2.0, 40), level(4.0, 80), level(8.0, 80)]
    words = conclusion(Bracket(4.0, 8.0, is_settled=True), levels, SloLimits(p99_ttft_ms=1.0))
    document: dict[str, Any] = orjson.loads(orjson.dumps(Study("capacity", levels, words).as_json()))
    return document


def test_a_capacity_test_gives_rate_saturation_and_the_length_of_its_requests() -> None:
    kind, fact = from_file(capacity_study())
    assert kind is EvidenceKind.CAPACITY
    assert (fact["slo_per_s"], fact["prompt_tokens"], fact["output_tokens"]) == (4.0, 100.0, 20.0)
    assert fact["saturated_per_s"] == pytest.approx(8.0, rel=0.05)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "run"}, "measures no capacity"),
        ({"verdict": "INVALID: client-bound"}, "not valid"),
        ({"conclusion": "No rate is known to be beyond the limits."}, "found no capacity"),
        ({"tool": "ab"}, "holds no measurement"),
    ],
)
def test_a_load_test_that_says_nothing_about_capacity_is_refused(change: dict[str, str], words: str) -> None:
    with pytest.raises(InvalidRequestError, match=words):
        from_file(capacity_study() | change)


def comparison(failed: tuple[int, ...] = ()) -> dict[str, Any]:
    """What `turntable compare` writes: a served arm, and one that was answered elsewhere."""
    right = {"correct": (0.7, 10), "exact_match": (0.6, 10)}
    other = {"schema_valid": (0.8, 10), "stopped": (1.0, 10), "field_accuracy": (0.5, 10), "f1:a": (0.0, 10)}
    measures = right | other | {"bleu": (0.3333, 10), "length": (20.0, 10)}
    metrics = {name: MetricResult(value=v, interval_95=(0.0, 1.0), of=of) for name, (v, of) in measures.items()}
    arms = tuple(
        Arm(
            name=kind.value,
            kind=kind,
            model="m",
            digest=None,
            metrics=metrics,
            slices={},
            tokens=Tokens(prompt=1000, completion=200, cached=900),
            latency_ms=Latency(p50=5.0, p95=9.0),
            cost_nano_usd=ArmCost(total=None, per_request=None, per_correct=None),
            failed=failed,
        )
        for kind in (ArmKind.ADAPTER, ArmKind.FRONTIER)
    )
    return ComparisonReport(
        created_at="2026-11-25T12:00:00Z",
        complete=not failed,
        task=TaskFacts(name="triage", sha256="0" * 64, items=10, frozen_at=None),
        base=BaseFacts(model="base", base_sha256=None, template_sha256=None),
        arms=arms,
        differences=(),
        gate=Gate(verdict=None, summary="There is no verdict."),
        examples=Examples(),
    ).as_json()


def test_a_comparison_gives_right_answers_and_tokens_of_the_arms_that_were_served_here() -> None:
    kind, fact = from_file(comparison())
    assert kind is EvidenceKind.QUALITY
    assert fact["models"] == {
        "adapter": {
            "requests": 10,
            "prompt_tokens": 1000,
            "cached_tokens": 900,
            "completion_tokens": 200,
            "rates": {"correct": {"hits": 7, "of": 10}, "exact_match": {"hits": 6, "of": 10}},
        }
    }
    with pytest.raises(InvalidRequestError, match="requests that failed"):
        from_file(comparison(failed=(1,)))


def measured_at(url: str, **fields: Any) -> dict[str, Any]:
    about = {"started_at": "2026-11-30T10:00:00+00:00", "machine": "box", "url": url, "models": ["base"]}
    return {"provenance": about | {"turntable_version": version("turntable-gateway")} | fields}


@pytest.mark.parametrize(
    ("provenance", "words"),
    [
        ({"provenance": None}, "does not say which server was measured"),
        (measured_at("http://127.0.0.1:1"), "it was measured at http://127.0.0.1:1, and this gateway is at"),
        (measured_at("", models=["base", "other@v3"]), "it asked for other, which this gateway does not serve"),
        (measured_at("", turntable_version="0.0.1"), "it is of Turntable 0.0.1"),
    ],
)
def test_a_capacity_of_another_server_counts_only_despite_that(
    attached: Attached, tmp_path: Path, provenance: dict[str, Any], words: str
) -> None:
    environment = {"TURNTABLE_ADMIN_KEY": KEY, "TURNTABLE_GATEWAY_URL": attached.url}
    about = provenance["provenance"]
    if about is not None:
        provenance = {"provenance": about | {"url": about["url"] or attached.url}}
    file = tmp_path / "capacity.json"
    file.write_bytes(orjson.dumps(capacity_study() | provenance))
    refused = CliRunner().invoke(costs_app, ["record", str(file)], env=environment)
    assert refused.exit_code == 2
    assert words in refused.output
    taken = CliRunner().invoke(costs_app, ["record", str(file), "--despite", "same card"], env=environment)
    assert taken.exit_code == 0, taken.output
    assert "counts despite: same card" in attached.http.get("/admin/v1/costs").json()["capacity"]


def test_no_rate_that_was_only_offered_is_a_capacity() -> None:
    """The server answers 3.9 a second at most, whatever it is offered."""
    study = capacity_study()
    for level_ in study["levels"]:
        for report in level_["reports"]:
            report["total"]["requests_per_s"] = min(report["total"]["requests_per_s"], 3.9)
    _, fact = from_file(study)
    assert (fact["saturated_per_s"], fact["slo_per_s"]) == (3.9, 3.9)
    _, fact = from_file(study | {"capacity": {"within_per_s": 3.5, "saturated_per_s": 3.8}})
    assert (fact["saturated_per_s"], fact["slo_per_s"]) == (3.8, 3.5)


def test_record_sends_a_measurement_to_the_gateway_and_refuses_other_files(attached: Attached, tmp_path: Path) -> None:
    environment = {"TURNTABLE_ADMIN_KEY": KEY, "TURNTABLE_GATEWAY_URL": attached.url}
    good, bad = tmp_path / "capacity.json", tmp_path / "bad.json"
    good.write_bytes(orjson.dumps(capacity_study() | measured_at(attached.url)))
    done = CliRunner().invoke(costs_app, ["record", str(good)], env=environment)
    assert (done.exit_code, done.output.startswith("capacity from ")) == (0, True), done.output
    document = attached.http.get("/admin/v1/costs").json()
    assert "4 requests per second are within the limits" in document["capacity"]
    for content in (b"[]", b"{", b'{"tool":"turntable loadtest","kind":"capacity","verdict":"valid","levels":[]}'):
        bad.write_bytes(content)
        refused = CliRunner().invoke(costs_app, ["record", str(bad)], env=environment)
        assert refused.exit_code == 2
        assert refused.output.startswith("error: ")
    missing = CliRunner().invoke(costs_app, ["record", str(tmp_path / "none.json")], env=environment)
    assert (missing.exit_code, "cannot be read" in missing.output) == (2, True)
