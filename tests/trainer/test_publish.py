from pathlib import Path

import pytest

from trainer.errors import RunError
from trainer.training.publish import publish


def test_without_a_key_the_run_is_kept_and_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TURNTABLE_ADMIN_KEY", raising=False)
    with pytest.raises(RunError, match="is trained but not published: There is no admin key"):
        publish(tmp_path, "x", gateway_url="http://127.0.0.1:1", data_dir=tmp_path, promotion=None)


def test_without_a_gateway_the_run_is_kept_and_the_fix_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("TURNTABLE_ADMIN_KEY", "tt-test")
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="is trained but not published: No gateway answers"):
        publish(tmp_path, "x", gateway_url=f"http://127.0.0.1:{unused_tcp_port}", data_dir=tmp_path, promotion=None)
