"""What `make bench-trainer` trains on when nobody names data."""

from trainer.benchmark.__main__ import mixed_rows


def test_the_benchmarks_own_rows_are_many_short_and_a_few_long_ones_and_always_the_same() -> None:
    rows = mixed_rows(60)
    lengths = sorted(len(row.messages[-1].content) for row in rows)
    assert lengths[-1] > 3 * lengths[len(lengths) // 2] > 6 * lengths[0]
    assert len({row.row_id for row in rows}) == len(rows)
    assert [row.row_id for row in mixed_rows(60)] == [row.row_id for row in rows]
