from hypothesis import given
from hypothesis import strategies as st

from trainer.training.batching import epoch_batches, micro_batches, rank_shard


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 5))
def test_an_epoch_shows_every_row_once_in_steps_of_the_wanted_size(rows: int, per_step: int, epoch: int) -> None:
    steps = epoch_batches(rows, per_step, seed=3, epoch=epoch)
    assert sorted(row for step in steps for row in step) == list(range(rows))
    assert {len(step) for step in steps[:-1]} <= {per_step}
    assert steps == epoch_batches(rows, per_step, seed=3, epoch=epoch)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [epoch_batches(50, 8, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    assert len({str(order) for order in orders}) == 4


@given(st.lists(st.integers(1, 900), min_size=1, max_size=30), st.integers(1, 8), st.integers(64, 1000))
def test_pieces_hold_every_row_in_order_within_both_limits(lengths: list[int], max_rows: int, max_tokens: int) -> None:
    batches = list(micro_batches(range(len(lengths)), lengths, max_rows=max_rows, max_tokens=max_tokens))
    assert [row for batch in batches for row in batch] == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) <= max_rows
        assert len(batch) == 1 or sum(lengths[row] for row in batch) <= max_tokens


@given(st.lists(st.integers(1, 900), max_size=30), st.integers(1, 4))
def test_processes_share_a_step_without_overlap_and_about_evenly(lengths: list[int], processes: int) -> None:
    shares = [rank_shard(range(len(lengths)), lengths, rank=rank, world_size=processes) for rank in range(processes)]
    assert sorted(row for one in shares for row in one) == list(range(len(lengths)))
    loads = [sum(lengths[row] for row in one) for one in shares]
    assert max(loads) - min(loads) <= max(lengths, default=0)
