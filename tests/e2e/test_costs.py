"""Money over the real engine: calibrated by a load on it, told with an answer, kept on the ledger."""

import json
import sqlite3
from typing import Any

from tests.conftest import Served
from tests.e2e.inference_requests import ASK
from tests.waiting import eventually

ASKED = {"x-turntable-cost": "1"}


def row_of(served: Served, request_id: str) -> dict[str, Any]:
    with sqlite3.connect(served.data_dir / "turntable.db") as database:
        database.row_factory = sqlite3.Row
        found = database.execute("SELECT * FROM usage_ledger WHERE request_id = ?", (request_id,)).fetchone()
    return dict(found) if found is not None and found["settled_us"] else {}


def test_a_key_with_a_budget_may_be_the_first_to_ask_a_fresh_gateway(served: Served) -> None:
    assert served.first.status_code == 200, served.first.text
    own_id = served.first.headers["x-request-id"]
    assert eventually(lambda: bool(row_of(served, own_id)))
    assert row_of(served, own_id)["cost_nano_usd"] > 0


def test_a_calibrated_engine_prices_every_request_by_its_tokens(served: Served) -> None:
    shape = ["--requests", "12", "--prompt-words", "160", "--output-tokens", "48"]
    done = served.turntable("costs", "calibrate", *shape, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["output_ps"] > found["cached_ps"] >= 0
    assert found["batches"] in (8, 16, 24)
    assert 1 < found["chars_per_token"] < 10
    assert served.http.get("/admin/v1/costs/evidence").json()["weights"]["output_ps"] == found["output_ps"]

    body = {"model": "base", "messages": ASK, "max_tokens": 24, "temperature": 0}
    answer = served.http.post("/v1/chat/completions", json=body, headers=ASKED)
    assert answer.headers["x-turntable-cost-basis"] == "calibrated"
    usage = answer.json()["usage"]
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    work_ps = (usage["prompt_tokens"] - cached) * found["prompt_ps"] + cached * found["cached_ps"]
    work_ps += usage["completion_tokens"] * found["output_ps"]
    told = round(float(answer.headers["x-turntable-cost-usd"]) * 1e9)
    assert told == round(work_ps * 0.10 * 1e9 / (3_600 * 1e12)) > 0

    own_id = answer.headers["x-request-id"]
    assert eventually(lambda: bool(row_of(served, own_id)))
    assert row_of(served, own_id)["cost_nano_usd"] == told

    streamed = served.http.post("/v1/chat/completions", json=body | {"stream": True})
    own_id = streamed.headers["x-request-id"]
    assert eventually(lambda: bool(row_of(served, own_id)))
    assert row_of(served, own_id)["cost_nano_usd"] > 0
