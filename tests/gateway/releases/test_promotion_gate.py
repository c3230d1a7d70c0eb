"""Gates: what opens them, what does not and says why, and that going back never needs one."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner

from adapters import Registry, Store
from adapters.cli import app
from gateway.errors import ConflictError
from gateway.releases.promotion_gate import EvidenceRecorder, PromotionGate, ServedBase
from gateway.settings import Settings
from loadtest.mock_engine.app import serving
from loadtest.mock_engine.engine import MockSettings
from tests.adapters.conftest import ALL_LINEAR, Adapter, in_layers, lora, write_base
from tests.gateway.conftest import KEY, Attached, running_gateway, wait_until_ready
from tests.gateway.releases.conftest import gateway_with_versions, ready_versions
from trainer.errors import RunError
from trainer.training.publish import Promotion, refuse_unpublishable

MINE = "/admin/v1/adapters/mine"
TASK = "7" * 64
OVERRIDE = {"reason": "the launch is today", "by": "Ada Byron"}


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attached]:
    """A gateway as it comes, over a base whose files it has; v1 of `mine` is live, v2 and v3 are ready."""
    scratch = tmp_path_factory.mktemp("gated")
    base_dir = write_base(scratch / "base")
    with gateway_with_versions(
        scratch, MockSettings(tokens=2), base_dir=base_dir, require_verdict=True, max_loras=4
    ) as gateway:
        yield gateway


def row(gateway: Attached, version: str) -> dict[str, Any]:
    """A version as the listing shows it."""
    rows = gateway.http.get("/admin/v1/adapters").json()["data"]
    return next(dict(row) for row in rows if row["version"] == version)


def post_verdict(gateway: Attached, version: str, outcome: str = "PROMOTE", **fields: object) -> httpx.Response:
    body = {
        "verdict": outcome,
        "digest": row(gateway, version)["digest"],
        "task_sha256": TASK,
        "base_sha256": None,
        "template_sha256": None,
        "complete": True,
        "checks": [{"name": "gain", "passed": True, "measured": 0.31, "required": ">= 0.05", "sentence": "31 more."}],
        "summary": "31 points over the prompted base",
        "human": None,
    }
    return gateway.http.post(f"{MINE}/versions/{version}/verdict", json=body | fields)


def promote(gateway: Attached, version: str, **fields: object) -> httpx.Response:
    return gateway.http.post(f"{MINE}/promote", json={"version": version} | fields)


def approve(gateway: Attached, version: str) -> httpx.Response:
    return gateway.http.post(f"{MINE}/versions/{version}/approve", json={"reason": "read the report"})


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


def test_only_a_passing_verdict_on_what_is_served_now_opens_the_gate(gated: Attached) -> None:
    loaded = gated.engine.adapters.keys()
    status, code, sentence = refusal(promote(gated, "v2"))
    assert (status, code) == (409, "verdict_required")
    assert sentence.startswith(
        "mine@v2 has no verdict, so it cannot be promoted; run `turntable compare TASK --record`"
    )
    assert gated.engine.adapters.keys() == loaded, "what is refused takes nobody's slot"

    other = "f" * 64
    assert refusal(post_verdict(gated, "v2", digest=other))[:2] == (409, "verdict_of_another_version")
    served = gated.http.get("/admin/v1/base").json()
    for outcome, fields, words in (
        (
            "DO_NOT_DEPLOY",
            {"summary": "no better than a prompt"},
            "the verdict DO_NOT_DEPLOY (no better than a prompt)",
        ),
        ("NOT_ENOUGH_ITEMS", {"summary": ""}, "has the verdict NOT_ENOUGH_ITEMS, so"),
        ("PROMOTE", {"complete": False}, "reached on part of the data only"),
        (
            "PROMOTE",
            {"base_sha256": other},
            f"on another base model: it was {other:.12}, now {served['base_sha256']:.12}",
        ),
        ("PROMOTE", {"template_sha256": other}, "on another chat template"),
    ):
        assert post_verdict(gated, "v2", outcome, **fields).status_code == 201
        status, code, sentence = refusal(promote(gated, "v2"))
        assert (status, code) == (409, "verdict_required")
        assert words in sentence
        assert (row(gated, "v2")["verdict"], row(gated, "v2")["verdict_counts"]) == (outcome, False)

    told = post_verdict(gated, "v2").json()
    assert (told["verdict"], told["verdict_counts"], told["override"]) == ("PROMOTE", True, None)
    assert promote(gated, "v2").json()["live"] is True
    entry = gated.http.get("/admin/v1/audit?subject=mine@v2&limit=1").json()["data"][0]
    assert entry["action"] == "promote"
    grounds = entry["evidence"]["verdict"]
    assert (grounds["task_sha256"], grounds["base_sha256"]) == (TASK, served["base_sha256"])
    assert gated.http.post(f"{MINE}/rollback").json()["version"] == "v1"


def test_an_override_takes_a_reason_and_a_name_and_stays_visible(gated: Attached) -> None:
    for half in ({"reason": "x"}, {"reason": "x", "by": "  "}, {"reason": "", "by": "Ada"}):
        assert promote(gated, "v3", override=half).status_code == 400
    post_verdict(gated, "v3", "DO_NOT_DEPLOY", summary="worse")
    assert promote(gated, "v3", override=OVERRIDE).json()["live"] is True
    entry = gated.http.get("/admin/v1/audit?subject=mine@v3&limit=1").json()["data"][0]
    assert entry["evidence"]["override"] == OVERRIDE
    assert entry["evidence"]["overridden"] == "has the verdict DO_NOT_DEPLOY (worse)"
    assert row(gated, "v3")["override"] == "Ada Byron: the launch is today"
    assert row(gated, "v3")["verdict"] == "DO_NOT_DEPLOY"
    assert gated.http.post(f"{MINE}/rollback").status_code == 200


def test_finding_out_and_going_back_need_no_verdict(gated: Attached) -> None:
    assert gated.http.post(f"{MINE}/canary", json={"version": 3, "percent": 5}).status_code == 200
    assert gated.http.post(f"{MINE}/shadow", json={"version": 3, "percent": 5}).status_code == 200
    assert gated.http.delete(f"{MINE}/canary").status_code == gated.http.delete(f"{MINE}/shadow").status_code == 200
    gated.http.delete(f"{MINE}/live")
    assert gated.http.post(f"{MINE}/rollback").json()["live"] is True


def test_publishing_into_a_closed_gate_says_that_it_is_published_and_what_is_missing(
    gated: Attached, tmp_path: Path
) -> None:
    source = Adapter(tensors=lora(in_layers(ALL_LINEAR), seed=9)).write(tmp_path / "source")
    environment = {"TURNTABLE_GATEWAY_URL": gated.url, "TURNTABLE_ADMIN_KEY": KEY, "COLUMNS": "300"}
    add = ["add", "fresh", str(source), "--promote"]
    refused = CliRunner().invoke(app, add, env=environment)
    assert refused.exit_code == 2
    assert refused.stderr.splitlines()[-1].startswith(
        "error: fresh@v1 is published and ready, but not live: fresh@v1 has no verdict, so"
    )
    overridden = CliRunner().invoke(app, [*add, "--override", "trying it out", "--by", "Ada"], env=environment)
    assert (overridden.exit_code, "live" in overridden.stdout) == (0, True), overridden.output
    shown = CliRunner().invoke(app, ["show", "fresh"], env=environment)
    assert "Ada: trying it out" in shown.stdout
    times = re.findall(r"20\d\d-\S+", shown.stdout)
    assert times
    assert all(len(at) == len("2026-11-30T11:29:46Z") for at in times), times


def test_training_for_a_closed_gate_is_refused_before_it_begins(
    gated: Attached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TURNTABLE_ADMIN_KEY", KEY)
    check = partial(refuse_unpublishable, [8], gateway_url=gated.url, data_dir=tmp_path)
    check(promotion=Promotion(OVERRIDE))
    check(promotion=None)
    with pytest.raises(RunError, match="requires a verdict, which a version gets after it is published"):
        check(promotion=Promotion())


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"verdict": "MAYBE"}, "verdict"),
        ({"digest": "abc"}, "digest"),
        ({"checks": [{"passed": True}]}, "checks.0.name"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_malformed_verdict_names_the_field(gated: Attached, fields: dict[str, Any], param: str) -> None:
    refused = post_verdict(gated, "v2", **fields)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert gated.http.post(f"{MINE}/versions/v9/verdict", json={}).status_code == 400


def test_vllms_load_call_is_an_override_by_its_key(tmp_path: Path) -> None:
    source = Adapter(tensors=lora(in_layers(ALL_LINEAR))).write(tmp_path / "allowed" / "mine")
    settings = Settings(data_dir=tmp_path, adapter_sources=(str(tmp_path / "allowed"),), require_verdict=True)
    with serving(MockSettings(tokens=2)) as engine, running_gateway(settings, engine.url) as url:
        wait_until_ready(url)
        gateway = Attached(url, engine, tmp_path)
        loaded = gateway.http.post("/v1/load_lora_adapter", json={"lora_name": "mine", "lora_path": str(source)})
        assert loaded.status_code == 200, loaded.text
        assert row(gateway, "v1")["override"].startswith("key admin: loaded with vLLM's own call")
        gateway.http.close()


def test_an_approval_takes_two_people_and_ends_when_the_version_fails(tmp_path: Path) -> None:
    settings = MockSettings(tokens=2)
    with gateway_with_versions(tmp_path, settings, require_verdict=True, require_approval=True) as gateway:
        post_verdict(gateway, "v2")
        status, code, sentence = refusal(promote(gateway, "v2", override=OVERRIDE))
        assert (status, code) == (409, "approval_required"), "an override is one person's word"
        assert "turntable adapters approve mine v2" in sentence
        assert refusal(approve(gateway, "v9"))[0] == 404
        approved = approve(gateway, "v2")
        assert (approved.status_code, approved.json()["approval"]) == (201, "by admin: read the report")
        assert "approved with the key that promotes it" in refusal(promote(gateway, "v2"))[2]

        made = gateway.http.post("/admin/v1/keys", json={"name": "carol", "tenant": "ops", "scopes": ["admin"]}).json()
        headers = {"authorization": f"Bearer {made['key']}"}
        carols = partial(gateway.http.post, f"{MINE}/promote", json={"version": "v2"}, headers=headers)
        assert carols().json()["live"] is True
        entry = gateway.http.get("/admin/v1/audit?subject=mine@v2&limit=1").json()["data"][0]
        assert entry["evidence"]["approval"] == {"by": "admin", "reason": "read the report"}
        assert entry["actor"] == made["id"]
        gateway.http.post(f"{MINE}/rollback")

        weights = tmp_path / "adapters" / row(gateway, "v2")["digest"] / "adapter_model.safetensors"
        weights.chmod(0o644)
        whole = weights.read_bytes()
        weights.write_bytes(whole[:-1] + b"?")
        assert gateway.http.post(f"{MINE}/versions/v2/verify").json()["ok"] is False
        weights.write_bytes(whole)
        assert gateway.http.post(f"{MINE}/versions/v2/verify").json()["ok"] is True
        assert row(gateway, "v2")["approval"].startswith("withdrawn: it failed verification")
        assert "mine@v2 is not approved (it failed verification" in refusal(carols())[2]


def test_content_that_is_published_again_needs_a_new_approval(database: Engine, tmp_path: Path) -> None:
    registry = Registry(database)
    versions = ready_versions(registry, Store(tmp_path / "adapters"), "mine", tmp_path, 2)
    gate = PromotionGate(ServedBase("base", None), require_verdict=False, require_approval=True)
    evidences = EvidenceRecorder(registry, gate)
    with pytest.raises(ConflictError, match="published with this key"):
        evidences.approve("mine", 2, "looks good", actor="test")
    evidences.approve("mine", 2, "fine", actor="bob")
    judge = partial(gate.judge, actor="carol", override=None)
    assert judge(registry.dossier(versions[1]))["approval"] == {"by": "bob", "reason": "fine"}
    registry.retire("mine", 2, actor="carol")
    again = registry.add("mine", versions[1].manifest, actor="mallory")
    with pytest.raises(ConflictError, match="not approved"):
        judge(registry.dossier(again))
