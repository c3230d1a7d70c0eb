"""A few seconds of chaos; `make soak-chaos` does it for twenty minutes."""

from pathlib import Path

from tests.gateway.metering.chaos import Chaos


def test_faults_at_random_moments_lose_no_token_and_no_key_and_none_passes_unseen(tmp_path: Path) -> None:
    report = Chaos(tmp_path, f"sqlite:///{tmp_path}/turntable.db", seed=4).run(8)
    assert report.is_clean, report
    assert report.faults.total() > 0
    assert report.keys_made > 0
