from pathlib import Path

import pytest

from trainer.errors import RecipeError
from trainer.training.recipe import Recipe, read_recipe

ROOT = Path(__file__).resolve().parents[2]
MINIMAL = 'name = "triage"\ntrain = "train.jsonl"\n'


def read(tmp_path: Path, text: str, name: str = "recipe.toml") -> Recipe:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return read_recipe(path)


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(RecipeError) as caught:
        read(tmp_path, text)
    return str(caught.value)


def test_two_lines_are_a_recipe_with_the_documented_defaults(tmp_path: Path) -> None:
    recipe = read(tmp_path, MINIMAL)
    assert (recipe.base_model, recipe.valid_fraction, recipe.seed) == ("embedded", 0.1, 0)
    assert (recipe.lora.r, recipe.lora.lora_alpha, recipe.lora.lora_dropout) == (16, 32, 0.05)
    assert (recipe.lora.target_modules, recipe.training.learning_rate) == ("all-linear", 2e-4)
    assert recipe.training.effective_batch_size == 8


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = read(tmp_path, MINIMAL + 'valid = "../valid.jsonl"\n')
    assert recipe.train_paths == (tmp_path / "train.jsonl",)
    assert recipe.valid_path == tmp_path / "../valid.jsonl"


def test_the_hash_is_of_the_content_and_not_of_its_place_or_spelling(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    plain = read(tmp_path, MINIMAL)
    spelt_out = read(tmp_path / "elsewhere", "# a comment\ntrain = 'train.jsonl'\nname = 'triage'\nseed = 0\n")
    assert plain.sha256 == spelt_out.sha256
    assert plain.sha256 != read(tmp_path, MINIMAL + "seed = 1\n").sha256


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "[lora]\nrank = 8\n", "lora.rank is not a field; [lora] takes r, lora_alpha"),
        (MINIMAL + "epochs = 3\n", "epochs is not a field; a file of this kind takes name, method"),
        (MINIMAL + 'directory = "x"\n', "directory is not a field"),
        ('name = "triage"\n', "train is missing"),
        (MINIMAL + "[lora]\nr = 24\n", "lora.r is 24, a rank the engine does not support; use one of 1, 8, 16, 32"),
        (MINIMAL + '[lora]\nr = "16"\n', "lora.r is '16'"),
        (MINIMAL + "[lora]\nr = true\n", "lora.r is True"),
        (
            MINIMAL + '[lora]\ntarget_modules = ["q_proj", "lm_head"]\n',
            "names lm_head, which the engine does not adapt",
        ),
        (MINIMAL + '[lora]\ntarget_modules = "q_proj"\n', 'write "all-linear", "attention-only" or a list'),
        (MINIMAL + "[lora]\ntarget_modules = []\n", 'write "all-linear", "attention-only" or a list'),
        (MINIMAL + "[training]\nlearning_rate = 0\n", "training.learning_rate is 0"),
        (MINIMAL + 'valid = "v.jsonl"\nvalid_fraction = 0.2\n', "valid and valid_fraction are both set"),
        (MINIMAL + "[training]\nper_device_train_batch_size = 64\n", "effective batch of 64 rows"),
        (
            MINIMAL + "[training]\nper_device_train_batch_size = 8\ngradient_accumulation_steps = 5\n",
            "effective batch of 40 rows",
        ),
        (MINIMAL + '[training]\nlr_scheduler_type = "constant"\nwarmup_fraction = 0.1\n', "constant_with_warmup"),
        (
            MINIMAL + 'method = "rlhf"\n',
            "'lora', 'qlora', 'full', 'dpo', 'orpo' or 'kto'",
        ),
        (MINIMAL + 'method = "full"\n[lora]\nr = 8\n', 'method = "full" trains every weight and has no adapter'),
        (MINIMAL + "[dpo]\nbeta = 0.1\n", '[dpo] is set, but method is "lora"'),
        (MINIMAL + 'method = "dpo"\n[dpo]\nbeta = 0\n', "dpo.beta is 0"),
        (MINIMAL + 'method = "dpo"\n[kto]\nbeta = 0.1\n', '[kto] is set, but method is "dpo"'),
        (MINIMAL + "[training]\nadam_beta2 = 1.0\n", "training.adam_beta2 is 1.0"),
        (MINIMAL + "[lora]\nr = 1\nlora_alpha = 65\n", "lora scales the adapter by 65, which the gateway refuses"),
        (MINIMAL + "[lora]\nalpha_pattern = { q_proj = 500 }\nr = 1\n", "lora scales q_proj by 500"),
        (MINIMAL + '[lora]\nrank_pattern = { "(a|b)+" = 8 }\n', "lora.rank_pattern has the key '(a|b)+'"),
        (MINIMAL + f"[lora]\nrank_pattern = {{ {'q' * 201} = 8 }}\n", "name modules plainly"),
        (MINIMAL + "[lora]\nrank_pattern = { q_proj = 1000 }\n", "has 1000 for q_proj; give a number from 1 to 512"),
        (MINIMAL + '[lora]\ntarget_modules = "(q_proj"\n', "lora.target_modules is no regular expression"),
        (MINIMAL + "[training]\neval_steps = 0\n", "training.eval_steps is 0"),
        (MINIMAL + "[lora]\nuse_dora = true\n", "lora.use_dora is not a field"),
        (MINIMAL + '[lora]\nmodules_to_save = ["lm_head"]\n', "lora.modules_to_save is not a field"),
        ('name = "Triage"\ntrain = "t.jsonl"\n', "name is not usable"),
        ('name = "triage@v3"\ntrain = "t.jsonl"\n', "write the adapter's name alone"),
        ("name = \n", "is not valid TOML"),
    ],
)
def test_a_field_that_cannot_be_used_is_named_with_what_it_takes(tmp_path: Path, text: str, said: str) -> None:
    message = refusal(tmp_path, text)
    assert said in message
    assert "recipe.toml" in message


def test_all_faults_of_a_recipe_are_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, MINIMAL + "speed = 1\n[lora]\nr = 3\n[training]\nmax_length = 1\n")
    assert [word in message for word in ("speed", "lora.r", "training.max_length")] == [True, True, True]


def test_a_large_batch_is_allowed_when_asked_for(tmp_path: Path) -> None:
    text = MINIMAL + "[training]\nper_device_train_batch_size = 64\nallow_large_batch = true\n"
    assert read(tmp_path, text).training.effective_batch_size == 64


@pytest.mark.parametrize(
    ("method", "rate"), [("lora", 2e-4), ("qlora", 2e-4), ("dpo", 5e-6), ("orpo", 8e-5), ("kto", 5e-6), ("full", 2e-5)]
)
def test_the_learning_rate_follows_the_method_unless_it_is_set(tmp_path: Path, method: str, rate: float) -> None:
    plain = read(tmp_path, f'{MINIMAL}method = "{method}"\n[training]\nnum_train_epochs = 1\n')
    assert plain.training.learning_rate == rate
    chosen = read(tmp_path, f'{MINIMAL}method = "{method}"\n[training]\nlearning_rate = 0.5\n')
    assert chosen.training.learning_rate == 0.5


def test_attention_only_is_the_preset_of_the_four_projections(tmp_path: Path) -> None:
    recipe = read(tmp_path, MINIMAL + '[lora]\ntarget_modules = "attention-only"\n')
    assert recipe.lora.module_names == ("q_proj", "k_proj", "v_proj", "o_proj")


def test_a_sweep_is_every_combination_and_each_trial_is_the_recipe_it_would_be_alone(tmp_path: Path) -> None:
    sweep = "[sweep]\nr = [8, 16]\nlearning_rate = [1e-4, 1e-3]\nseed = [0, 1, 2]\n"
    swept = read(tmp_path, MINIMAL + "[training]\nnum_train_epochs = 2\n" + sweep)
    trials = swept.trials()
    assert len({(t.lora.r, t.training.learning_rate, t.seed) for t in trials}) == len(trials) == 12
    alone = MINIMAL + "seed = 2\n[lora]\nr = 16\n[training]\nnum_train_epochs = 2\nlearning_rate = 1e-3\n"
    assert trials[-1].sha256 == read(tmp_path, alone).sha256
    assert swept.sha256 == read(tmp_path, MINIMAL + "[training]\nnum_train_epochs = 2\n").sha256


def test_a_trial_that_is_no_valid_recipe_is_one_sentence(tmp_path: Path) -> None:
    swept = read(tmp_path, MINIMAL + "[sweep]\nr = [8, 12]\n")
    with pytest.raises(RecipeError, match=r"^\[sweep\]: lora\.r is 12, a rank the engine does not support"):
        swept.trials()


def test_a_missing_recipe_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nowhere\.toml cannot be read \(No such file"):
        read_recipe(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*/recipe.toml")), ids=lambda path: path.parent.name)
def test_example_recipes_are_valid_and_fit_in_thirty_lines(path: Path) -> None:
    read_recipe(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30
