"""Recorded traffic: the four formats, and what is wrong with a line by file and line."""

import io
from pathlib import Path

import pytest

from loadtest.errors import InvalidWorkloadError
from loadtest.schedule import Plan, planned_trace
from loadtest.settings import RunSettings
from loadtest.traces import TraceRow, read_trace, write_trace
from loadtest.workload import RequestSpec

URL = "http://127.0.0.1:1"
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
"""
BURST = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,7,1.2,ChatGPT,472,18,490,Conversation log
45,7,0.0,ChatGPT,1087,0,1087,Conversation log
118,,2.2,GPT-4,417,276,693,API log
"""
MOONCAKE = """{"timestamp": 27482, "input_length": 700, "output_length": 52, "hash_ids": [46, 47]}
{"timestamp": 30535, "input_length": 600, "output_length": 26, "hash_ids": [46, 2366]}
"""
OURS = """at_s,prompt_tokens,output_tokens,adapter,session
0,5,3,support,
1.5,6,4,,
"""


def written(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_azure_times_count_from_the_first_request(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, AZURE))
    assert [row.prompt_tokens for row in rows] == [374, 396]
    assert rows[0].at_s == 0
    assert rows[1].at_s == pytest.approx(4.314579)


def test_an_azure_time_of_later_years_has_an_offset(tmp_path: Path) -> None:
    text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.25+00:00,1,2\n2024-05-10 00:00:01+00:00,1,2\n"
    assert [row.at_s for row in read_trace(written(tmp_path, text))] == [0, 0.75]


def test_failed_requests_of_burstgpt_are_left_out(tmp_path: Path) -> None:
    rows = read_trace(written(tmp_path, BURST))
    assert [(row.at_s, row.prompt_tokens, row.output_tokens, row.session) for row in rows] == [
        (0, 472, 18, "7"),
        (113, 417, 276, None),
    ]


def test_equal_blocks_of_mooncake_become_equal_text(tmp_path: Path) -> None:
    trace = written(tmp_path, MOONCAKE, "trace.jsonl")
    first, second = (spec.messages[0]["content"].split() for spec in planned(trace))
    assert (len(first), len(second)) == (700, 600)
    assert first[:512] == second[:512]
    assert first[512:600] != second[512:600]


def test_our_format_names_adapters_and_the_rest_is_drawn(tmp_path: Path) -> None:
    specs = planned(written(tmp_path, OURS))
    assert [(spec.model, spec.max_tokens, spec.exact) for spec in specs] == [("support", 3, True), ("base", 4, True)]
    assert len(specs[0].messages[0]["content"].split()) == 5


def planned(trace: Path) -> list[RequestSpec]:
    return list(Plan.of(RunSettings(URL, ("base",), trace=trace)).specs)


def test_replay_keeps_the_times_sped_up(tmp_path: Path) -> None:
    settings = RunSettings(URL, ("base",), trace=written(tmp_path, BURST), arrivals="trace", speedup=2)
    plan = Plan.of(settings)
    assert plan.offsets_s is not None
    assert list(plan.offsets_s) == [0, 56.5]


def test_a_plan_written_as_a_trace_replays_as_the_same_plan(tmp_path: Path) -> None:
    settings = RunSettings(
        URL, ("a", "b"), requests=50, rate_per_s=5, popularity="zipf:1", prompt_words="uniform:3:9", output_tokens="7"
    )
    text = io.StringIO()
    write_trace(text, planned_trace(settings))
    trace = written(tmp_path, text.getvalue())
    original, again = Plan.of(settings), Plan.of(RunSettings(URL, ("a", "b"), trace=trace, arrivals="trace"))
    assert [(spec.model, spec.max_tokens) for spec in again.specs] == [
        (spec.model, spec.max_tokens) for spec in original.specs
    ]
    first = next(row for row in read_trace(trace))
    assert first == TraceRow(0, first.prompt_tokens, 7, first.adapter)


@pytest.mark.parametrize(
    ("text", "where", "problem"),
    [
        (AZURE + "yesterday,1,2\n", "4", "Invalid isoformat"),
        (AZURE + "2023-11-16 18:15:51,-4,2\n", "4", "'ContextTokens' must be a whole number of at least 1, not '-4'"),
        (AZURE + "2023-11-16 18:15:51,4\n", "4", "'GeneratedTokens' must be"),
        (BURST + "x,7,1,GPT-4,1,1,2,API log\n", "5", "could not convert"),
        (OURS + "nan,1,1,,\n", "4", "not a number"),
        (OURS + "3,1.5,1,,\n", "4", "'prompt_tokens' must be a whole number"),
        (MOONCAKE + "{nonsense\n", "3", ""),
        (MOONCAKE + '{"timestamp": 1}\n', "3", "has no 'input_length'"),
        (MOONCAKE + '{"timestamp": "a", "input_length": 1, "output_length": 1}\n', "3", ""),
        (MOONCAKE + "[]\n", "3", "not a JSON object"),
        ("a,b,c\n1,2,3\n", "1", "none of the trace formats"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, text: str, where: str, problem: str) -> None:
    with pytest.raises(InvalidWorkloadError, match=rf"trace\.csv:{where}: .*{problem}"):
        read_trace(written(tmp_path, text))


def test_a_named_format_must_have_its_columns(tmp_path: Path) -> None:
    with pytest.raises(InvalidWorkloadError, match=r"trace\.csv:1: the azure format needs the column 'TIMESTAMP'"):
        read_trace(written(tmp_path, OURS), "azure")


def test_a_trace_that_is_missing_empty_or_binary_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidWorkloadError, match=r"none\.csv: cannot be read"):
        read_trace(tmp_path / "none.csv")
    with pytest.raises(InvalidWorkloadError, match="has no requests"):
        read_trace(written(tmp_path, "at_s,prompt_tokens,output_tokens\n"))
    binary = tmp_path / "trace.bin"
    binary.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(InvalidWorkloadError, match="not a text file"):
        read_trace(binary)
