"""vLLM's own benchmark, unmodified, runs against the gateway and counts no failed request."""

import json
import subprocess
import sys
from pathlib import Path

from gateway.settings import inherited_environment
from tests.conftest import Served

REQUESTS, OUTPUT_TOKENS = 6, 8
# What `vllm bench serve` does; the CPU build's own `vllm` command does not start, for want of its package's metadata.
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser
parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


def bench(served: Served, base_model: Path, result: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run the benchmark offline, with the base's own tokenizer."""
    command = [sys.executable, "-c", BENCH_SERVE, "--base-url", served.url, "--model", "base"]
    command += ["--tokenizer", str(base_model), "--dataset-name", "random", "--random-input-len", "32"]
    command += ["--random-output-len", str(OUTPUT_TOKENS), "--num-prompts", str(REQUESTS), "--ignore-eos"]
    command += ["--save-result", "--result-dir", str(result.parent), "--result-filename", result.name, *options]
    offline = {"OPENAI_API_KEY": served.key, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return subprocess.run(
        command, env=inherited_environment() | offline, capture_output=True, text=True, check=False, timeout=240
    )


def test_bench_serve_completes_every_request(served: Served, base_model: Path, tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    done = bench(served, base_model, result, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions")
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(result.read_text())
    assert (figures["completed"], figures["failed"]) == (REQUESTS, 0)
    assert figures["total_output_tokens"] == REQUESTS * OUTPUT_TOKENS
    assert figures["mean_ttft_ms"] > 0
