"""The `turntable` command: every sub-command ends bad input with one sentence, help and completion import nothing."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from turntable.cli import COMMANDS, app

TURNTABLE = str(Path(sys.executable).with_name("turntable"))
GONE = "http://127.0.0.1:9"
GATEWAY = ["--gateway", GONE]
# For every command: arguments that it can understand and not carry out.
BAD_INPUT: dict[str, list[str]] = {
    "adapters add": ["mine", "nowhere", *GATEWAY],
    "adapters approve": ["mine", "v1", "--reason", "x", *GATEWAY],
    "adapters audit": GATEWAY,
    "adapters canary": ["mine", "v1", "5", *GATEWAY],
    "adapters drift": ["mine", *GATEWAY],
    "adapters engines": GATEWAY,
    "adapters list": GATEWAY,
    "adapters pin": ["mine", *GATEWAY],
    "adapters promote": ["mine", "v1", *GATEWAY],
    "adapters retire": ["mine", "v1", *GATEWAY],
    "adapters rollback": ["mine", *GATEWAY],
    "adapters shadow": ["mine", "v1", "5", *GATEWAY],
    "adapters show": ["mine", *GATEWAY],
    "adapters unpin": ["mine", *GATEWAY],
    "adapters verify": ["mine", "v1", *GATEWAY],
    "adapters withdraw": ["mine", *GATEWAY],
    "advise": ["nowhere.toml"],
    "base build": ["--out", "/dev/null/base"],
    "compare freeze": ["nowhere.toml"],
    "compare run": ["nowhere.toml", *GATEWAY],
    "costs": GATEWAY,
    "costs breakeven": ["--hardware", "abacus", "--capacity-per-s", "1"],
    "costs calibrate": GATEWAY,
    "costs record": ["nowhere.json", *GATEWAY],
    "data check": ["nowhere.jsonl"],
    "data prepare": ["nowhere.csv", "--out", "out.jsonl"],
    "data preview": ["nowhere.jsonl"],
    "data split": ["nowhere.jsonl"],
    "demo": ["--data-dir"],
    "export": ["nowhere", "--format", "gguf", "--out", "out"],
    "feedback export": ["out.jsonl", *GATEWAY],
    "feedback forget": ["acme", *GATEWAY],
    "feedback list": GATEWAY,
    "keys audit": GATEWAY,
    "keys change": ["id", *GATEWAY],
    "keys create": ["name", *GATEWAY],
    "keys expire": ["id", *GATEWAY],
    "keys list": GATEWAY,
    "keys revoke": ["id", *GATEWAY],
    "keys rotate": ["id", *GATEWAY],
    "keys show": ["id", *GATEWAY],
    "lineage row": ["nowhere.jsonl:1"],
    "loadtest bench": ["--systems", "abacus"],
    "loadtest bench-adapters": ["--model", "nowhere", "--registered", "1"],
    "loadtest bench-lora": ["--model", "nowhere", "--rounds", "0"],
    "loadtest capacity": ["--url", GONE],
    "loadtest compare": ["nowhere.json", "nowhere.json"],
    "loadtest report": ["nowhere.jsonl"],
    "loadtest run": ["--url", GONE, "--requests", "1"],
    "loadtest soak": ["--requests", "1"],
    "loadtest sweep": ["--url", GONE, "--users", "x"],
    "loadtest trace": ["--trace", "nowhere.csv"],
    "prices diff": ["--on", "someday"],
    "prices list": ["--on", "someday"],
    "prices show": ["nobody:nothing"],
    "prices update": ["--from", "nowhere.json"],
    "push": ["nowhere", "me/late"],
    "report": ["nowhere"],
    "requests list": GATEWAY,
    "requests show": ["id", *GATEWAY],
    "review export": ["nowhere.toml", "--out", "out.jsonl"],
    "review rate": ["nowhere.toml"],
    "review results": ["nowhere.toml"],
    "serve": ["--port", "99999"],
    "tenants change": ["acme", *GATEWAY],
    "tenants delete": ["acme", *GATEWAY],
    "tenants list": GATEWAY,
    "tenants set": ["acme", *GATEWAY],
    "tenants show": ["acme", *GATEWAY],
    "train": ["nowhere.toml"],
    "usage": GATEWAY,
    "usage export": ["out.csv", *GATEWAY],
    "usage forget": ["acme", *GATEWAY],
    "usage prune": ["--before", "2026-01-01", *GATEWAY],
}
LISTINGS = ("list", "show", "audit", "engines", "drift", "diff", "usage", "costs", "check", "row", "results", "verify")


def leaves(path: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with its words."""
    children = getattr(command, "commands", {})
    if not children or command.invoke_without_command:
        yield path, command
    for name, child in children.items():
        yield from leaves(f"{path} {name}", child)


EVERY = dict(entry for name, command in COMMANDS.items() for entry in leaves(name, command.load()))


def turntable(*words: str, cwd: Path) -> Result:
    environment = dict.fromkeys(("TURNTABLE_GATEWAY_URL", "TURNTABLE_API_KEY", "TURNTABLE_DATA_DIR"))
    os.chdir(cwd)
    return CliRunner().invoke(app, list(words), env=environment | {"TURNTABLE_ADMIN_KEY": "tt-admin"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_has_an_example_of_bad_input() -> None:
    assert BAD_INPUT.keys() == EVERY.keys()


@pytest.mark.parametrize("command", sorted(BAD_INPUT))
def test_bad_input_ends_with_one_sentence_and_2(command: str, folder: Path) -> None:
    ended = turntable(*command.split(), *BAD_INPUT[command], cwd=folder)
    assert isinstance(ended.exception, SystemExit), ended.exception
    assert ended.exit_code == 2
    assert ended.stderr.splitlines()[-1].startswith("error: ")
    assert ended.stderr.count("error: ") == 1
    # A report on several files is printed all the same.
    assert ended.stdout == "" or command == "data check"


@pytest.mark.parametrize("command", sorted(EVERY))
def test_an_unknown_option_is_one_line_that_names_the_commands_help(command: str, folder: Path) -> None:
    ended = turntable(*command.split(), "--no-such-option", cwd=folder)
    assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith("error: No such option: --no-such-option")
    assert f"{command} --help`" in ended.stderr


@pytest.mark.parametrize("command", sorted(EVERY))
def test_every_command_has_help_and_help_for_every_option(command: str) -> None:
    assert EVERY[command].help
    silent = [option.name for option in EVERY[command].params if option.param_type_name == "option" and not option.help]
    assert not silent


def test_every_listing_takes_json() -> None:
    listings = {path: command for path, command in EVERY.items() if path.split()[-1] in LISTINGS}
    without = [
        path for path, command in listings.items() if "--json" not in [o for p in command.params for o in p.opts]
    ]
    assert len(listings) > 20
    assert not without


def test_the_help_lists_every_command_under_a_heading_and_imports_none() -> None:
    program = (
        "import sys; from turntable.cli import main\n"
        "sys.argv = ['turntable', '--help']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "loaded = {'rich', 'pydantic', 'httpx', 'gateway', 'trainer', 'adapters', 'loadtest'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for name in COMMANDS:
        assert f"\n  {name} " in shown
    for panel in ("Serve", "Train", "Evaluate", "Operate", "Measure"):
        assert f"\n{panel}:\n" in shown


def test_the_command_alone_shows_help_and_the_version_is_told(folder: Path) -> None:
    alone = turntable(cwd=folder)
    assert (alone.exit_code, "Usage:" in alone.stdout) == (0, True)
    assert turntable("--version", cwd=folder).stdout.startswith("turntable ")


def test_an_unknown_command_suggests_the_nearest(folder: Path) -> None:
    ended = turntable("adpters", cwd=folder)
    assert ended.exit_code == 2
    assert ended.stderr.startswith("error: No such command 'adpters'. Did you mean 'adapters'")


def completed(words: str) -> list[str]:
    """What bash offers after these words."""
    environment = os.environ | {
        "_TURNTABLE_COMPLETE": "complete_bash",
        "COMP_WORDS": f"turntable {words}",
        "COMP_CWORD": str(len(words.split(" "))),
    }
    done = subprocess.run([TURNTABLE], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_completion_knows_commands_sub_commands_and_options() -> None:
    assert completed("ke") == ["keys"]
    assert completed("keys r") == ["rotate", "revoke"]
    assert "--expect-live" in completed("adapters promote --e")
    script = subprocess.run(
        [TURNTABLE],
        env=os.environ | {"_TURNTABLE_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "complete -o default -F _turntable_completion turntable" in script
