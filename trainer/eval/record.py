"""Bringing a verdict to the gateway, which keeps it with the version and lets it go live, or not."""

from pathlib import Path
from typing import Any

from adapters import AdapterError
from adapters.admin_client import connect
from trainer.errors import EvaluationError
from trainer.eval.report import Arm, Report


def record(report: Report, gateway_url: str, data_dir: Path) -> str:
    """Post the verdict on the version that it is about, which is returned; raises `EvaluationError`."""
    arm = _subject(report)
    name, _, version = arm.model.partition("@")
    try:
        with connect(gateway_url, data_dir) as admin:
            admin.request("POST", f"/adapters/{name}/versions/{version}/verdict", json=_body(report, arm))
    except AdapterError as error:
        raise EvaluationError(f"the verdict on {arm.model} is not recorded: {error}") from error
    return arm.model


def _subject(report: Report) -> Arm:
    if report.gate.verdict is None or report.gate.arm is None:
        raise EvaluationError(f"there is nothing to record: {report.gate.summary}")
    arm = report.arm(report.gate.arm)
    if arm.digest is None or "@v" not in arm.model:
        raise EvaluationError(
            f"which version of {arm.model} answered is not known, so its verdict is not recorded; set "
            "TURNTABLE_ADMIN_KEY and compare again."
        )
    return arm


def _body(report: Report, arm: Arm) -> dict[str, Any]:
    return {
        "verdict": report.gate.verdict,
        "digest": arm.digest,
        "task_sha256": report.task.sha256,
        "base_sha256": report.base.base_sha256,
        "template_sha256": report.base.template_sha256,
        "complete": report.complete,
        "checks": [check.model_dump(mode="json") for check in report.gate.checks],
        "summary": report.gate.summary,
        "human": report.human,
    }
