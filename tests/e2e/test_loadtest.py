"""The load tester against the real gateway: adapters, a promotion under load, and what the ledger says of it."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Served
from tests.e2e.readings import usage_of
from tests.waiting import eventually


def test_a_promotion_under_load_loses_nothing_and_the_ledger_agrees(
    served: Served, make_adapter: Callable[[int], Path], tmp_path: Path
) -> None:
    for seed in (11, 12):
        added = served.turntable("adapters", "add", "swapped", make_adapter(seed), "--json")
        assert added.returncode == 0, added.stderr
    assert served.turntable("adapters", "promote", "swapped", "v1").returncode == 0
    before = usage_of(served, "swapped")
    report_file, page = tmp_path / "report.json", tmp_path / "report.html"
    result = served.turntable(
        "loadtest", "run", "--url", served.url, "--models", "base,swapped", "--popularity", "weights:1,3",
        "--concurrency", "4", "--requests", "120", "--output-tokens", "8", "--promote", "swapped=2,1",
        "--promote-every-s", "0.1", "--usd-per-hour", "0.10", "--json", report_file, "--html", page,
    )  # fmt: skip
    report = json.loads(report_file.read_text())
    total, swapped = report["total"], report["models"]["swapped"]
    assert total["failed"] == 0, result.stdout
    assert (total["succeeded"], total["usage_missing"], total["usage_below_chunks"]) == (120, 0, 0)
    assert total["completion_tokens"] == 120 * 8
    assert report["warmup_failures"] == {}
    finished = [promotion for promotion in report["promotions"] if promotion["took_s"] is not None]
    assert {promotion["status"] for promotion in finished} == {200}
    assert report["cost"]["per_good_request"] > 0
    assert "<svg" in page.read_text()
    # The warm-up asked once, for eight tokens at most.
    requests = before["requests"] + swapped["requests"] + 1
    assert eventually(lambda: usage_of(served, "swapped")["requests"] == requests)
    counted = usage_of(served, "swapped")["completion_tokens"] - before.get("completion_tokens", 0)
    assert 0 <= counted - swapped["completion_tokens"] <= 8
