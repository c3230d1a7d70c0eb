"""Engine logs: kept over restarts, and the line that explains a failure is found in what vLLM writes."""

from pathlib import Path

from gateway.engines.process import last_error, rotate

VLLM = """\
(EngineCore pid=7) ERROR 11-25 13:00:00 [core.py:1100] EngineCore encountered a fatal error.
(EngineCore pid=7) ERROR 11-25 13:00:00 [core.py:1100] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-25 13:00:00 [core.py:1100]   File "/opt/vllm/lora/utils.py", line 3, in read
(EngineCore pid=7) ERROR 11-25 13:00:00 [core.py:1100] RuntimeError: Cannot find any adapter in /a/b
(APIServer pid=1) ERROR 11-25 13:00:00 [async_llm.py:700] AsyncLLM output_handler failed.
(APIServer pid=1) ERROR 11-25 13:00:00 [async_llm.py:700] vllm.v1.engine.exceptions.EngineDeadError: EngineCore died.
(APIServer pid=1) INFO 11-25 13:00:01 [launcher.py:99] Shutting down
"""


def test_the_error_of_a_log_is_the_cause_and_not_its_consequence(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text(VLLM)
    assert last_error(log) == "RuntimeError: Cannot find any adapter in /a/b"


def test_a_log_without_an_error_says_so(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("(APIServer pid=1) INFO 11-25 13:00:01 [launcher.py:99] Error handling is on\n")
    assert last_error(log) == last_error(tmp_path / "absent.log") == "no error was logged"


def test_every_start_has_a_log_of_its_own_and_the_last_ones_stay(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "engine.log"
    for start in range(8):
        rotate(log)
        assert not log.exists()
        log.write_text(f"start {start}")
    kept = {path.name: path.read_text() for path in log.parent.iterdir()}
    assert kept == {"engine.log": "start 7"} | {f"engine.{n}.log": f"start {7 - n}" for n in range(1, 6)}
