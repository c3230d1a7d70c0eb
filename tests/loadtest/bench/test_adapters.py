"""The benchmark of many adapters: its adapters are real, its judgement is right, its figures survive being written."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from adapters import BaseModel, preflight
from loadtest.bench.adapters import AdapterResult, EngineKill, ManyAdapters, rows, table
from loadtest.bench.adapters_server import closest, distance, write_adapters

MANY = ManyAdapters(
    registered=1000,
    active=200,
    requests=2000,
    failed=0,
    judged=900,
    wrong=0,
    rss_mib=[900.0, 950.0],
    resident=200,
    agrees=True,
    list_s=0.3,
    models_s=0.2,
)
RESULT = AdapterResult(
    plan="65 adapter slots",
    one=[100.0, 110.0, 90.0],
    many=[98.0, 108.0, 88.0],
    cold_ms=[30.0, 40.0, 50.0],
    warm_ms=[10.0, 15.0, 18.0],
    turns=MANY,
    kill=EngineKill(adapters=20, engine_start_s=30.0, ready_s=1.0, back_s=2.0, wrong=0),
)


def test_every_bar_is_met_by_good_figures_and_each_missed_by_a_bad_one() -> None:
    assert all(row.is_met for row in rows(RESULT, 12.0))
    bad = [
        (replace(RESULT, cold_ms=[200.0, 201.0, 202.0]), "first token"),
        (replace(RESULT, many=[50.0, 51.0, 52.0]), "64 adapters"),
        (replace(RESULT, turns=replace(MANY, failed=1)), "failed"),
        (replace(RESULT, turns=replace(MANY, wrong=1)), "answers from other weights"),
        (replace(RESULT, turns=replace(MANY, agrees=False)), "agree"),
        (replace(RESULT, turns=replace(MANY, list_s=1.5)), "listed"),
        (replace(RESULT, kill=replace(RESULT.kill, back_s=16.0)), "killed"),
    ]
    for result, what in bad:
        missed = [row.what for row in rows(result, 12.0) if not row.is_met]
        assert len(missed) == 1
        assert what in missed[0]
    assert [row.what for row in rows(RESULT, 21.0) if not row.is_met] == ["resolve and pin a warm adapter"]


def test_figures_are_medians_of_paired_rounds() -> None:
    assert RESULT.ratio == pytest.approx(0.98, abs=0.003)
    assert RESULT.cold_extra_ms == 25


def test_a_result_survives_being_written_and_read() -> None:
    assert AdapterResult.from_json({"started": "2026-01-01", **asdict(RESULT)}) == RESULT
    assert "| missed |" not in table(RESULT, None)


def test_its_adapters_pass_preflight_and_differ(tmp_path: Path, base_model: Path) -> None:
    base = BaseModel.read(base_model)
    one, two = write_adapters(base_model, tmp_path, 2)
    assert preflight(one, base, max_rank=16).r == 8
    weights = [(directory / "adapter_model.safetensors").read_bytes() for directory in (one, two)]
    assert weights[0] != weights[1]


def test_an_answer_is_attributed_to_the_weights_it_is_most_like() -> None:
    references = {"a": {"x": -0.1, "y": -3.0}, "b": {"x": -3.0, "z": -0.1}}
    assert closest({"x": -0.2, "y": -2.9}, references) == "a"
    assert closest({"x": -2.9, "y": -5.0}, references) == "b"
    assert distance(references["a"], references["a"]) == 0
