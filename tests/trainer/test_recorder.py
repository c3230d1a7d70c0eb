import json
from pathlib import Path

from rich.console import Console

from trainer.training.checkpoint import LoopState
from trainer.training.metrics_log import METRICS_FILE, MetricsRecorder, TrainingProgress


def recorder(folder: Path) -> MetricsRecorder:
    return MetricsRecorder(folder, TrainingProgress(Console(quiet=True)))


def steps(one: MetricsRecorder, first: int, last: int, losses: list[float]) -> None:
    for number in range(first, last + 1):
        state = LoopState(step=number, input_tokens=10 * number, steps_s=number / 2, losses=losses)
        one.on_step(state, epoch=number / 4, loss=5.0 - number, learning_rate=1e-3, grad_norm=1.0)


def logged(folder: Path) -> list[tuple[int, float | None, float | None]]:
    lines = [json.loads(line) for line in (folder / METRICS_FILE).read_text(encoding="utf-8").splitlines()]
    return [(line["step"], line["loss"], line["eval_loss"]) for line in lines]


def test_every_step_is_on_disk_before_the_next_begins(tmp_path: Path) -> None:
    one = recorder(tmp_path)
    one.on_start(LoopState(), 4)
    for number in (1, 2, 3):
        steps(one, number, number, [])
        assert logged(tmp_path)[-1] == (number, 5.0 - number, None)
    assert one.metrics[-1].tokens_per_s == 20.0


def test_a_run_that_continues_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    killed = recorder(tmp_path)
    killed.on_start(LoopState(), 8)
    killed.on_eval(LoopState(losses=[9.0]), epoch=0, eval_loss=9.0)
    steps(killed, 1, 4, [9.0])
    killed.on_eval(LoopState(step=4, losses=[9.0, 3.0]), epoch=1, eval_loss=3.0)
    steps(killed, 5, 6, [9.0, 3.0])
    with (tmp_path / METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "ep')  # killed while writing
    again = recorder(tmp_path)
    again.on_start(LoopState(step=4, losses=[9.0]), 8)
    assert logged(tmp_path) == [(0, None, 9.0), (1, 4.0, None), (2, 3.0, None), (3, 2.0, None), (4, 1.0, None)]
    assert [step.step for step in again.metrics] == [0, 1, 2, 3, 4]


def test_of_very_many_steps_some_are_logged_and_the_last_is(tmp_path: Path) -> None:
    one = recorder(tmp_path)
    one.on_start(LoopState(), 1001)
    steps(one, 1, 1001, [])
    assert len(one.metrics) == 201
    assert one.metrics[-1].step == 1001
