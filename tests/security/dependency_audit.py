"""The dependency audit: `python -m tests.security.dependency_audit [--strict]`, part of `make lint` and `make audit`.

Always, without a network: everything is pinned, what is installed is what the lists say and nothing else, nothing runs
at the start of Python that no package brought, and no licence binds our users' own code. When a vulnerability database
(OSV) answers, known flaws of the pinned versions are told; with `--strict` they, and a database out of reach, fail.
"""

import argparse
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distributions
from pathlib import Path

import httpx
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DATABASE = "https://api.osv.dev/v1/querybatch"
_TOOLS = frozenset({"pip", "setuptools", "uv", "wheel", "turntable-gateway"})  # what `make setup` brings besides
_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;]+)(?:; python_version < '[\d.]+')?")
_BINDING = re.compile(r"\b(?:A?GPL|SSPL|BUSL|Commons Clause)", re.IGNORECASE)
_TIMEOUT = httpx.Timeout(3.0)


def main() -> None:
    """Audit this environment; exit code 1 when something is wrong."""
    parser = argparse.ArgumentParser(description="Audit the packages that are pinned and installed.")
    parser.add_argument("--strict", action="store_true", help="fail on known flaws, and when nobody can be asked")
    strict = parser.parse_args().strict
    lists = sorted((ROOT / "requirements").glob("*.txt"))
    pins, problems = pins_of(lists)
    ours, _ = pins_of(path for path in lists if not path.name.startswith("bench-"))
    installed = installed_here()
    problems += [*foreign(installed, ours), *strange_starts(installed, Path(sysconfig.get_path("purelib")))]
    problems += binding_licences(installed)
    say(f"audit: {len(installed)} packages are pinned and ours" if not problems else "")
    try:
        flaws = known_flaws(pins, DATABASE)
        say(f"audit: the database knows {len(flaws)} flaws of {len(pins)} pinned packages", *flaws)
    except httpx.HTTPError as error:
        flaws = [f"the vulnerability database was not asked ({type(error).__name__}): known flaws are NOT looked up"]
        say(*(f"audit: {flaw}" for flaw in flaws))
    problems += flaws if strict else []
    sys.exit("\n".join(f"error: {problem}" for problem in problems) if problems else 0)


def say(*lines: str) -> None:
    """Tell whoever runs this."""
    sys.stdout.writelines(f"{line}\n" for line in lines if line)


def installed_here() -> list[Distribution]:
    """What lies in this environment; setuptools puts what it carries along on the path of whoever imports it."""
    return list(distributions(path=[sysconfig.get_path("purelib")]))


def pins_of(lists: Iterable[Path]) -> tuple[dict[str, str], list[str]]:
    """Names and versions of the lists, and the lines that pin nothing."""
    pins: dict[str, str] = {}
    problems = []
    for path in lists:
        for line in path.read_text(encoding="utf-8").splitlines():
            if not line or line.startswith("#"):
                continue
            if match := _PIN.fullmatch(line.partition(" #")[0].strip()):
                pins[canonicalize_name(match["name"])] = match["version"]
            else:
                problems.append(f"requirements/{path.name}: '{line}' is not pinned; write name==version")
    return pins, problems


def foreign(installed: Iterable[Distribution], pins: Mapping[str, str]) -> Iterator[str]:
    """Packages that are installed and in no list, or in another version."""
    for package in installed:
        name = canonicalize_name(package.name)
        pinned = pins.get(name)
        if pinned is None and name not in _TOOLS:
            yield f"{name} {package.version} is installed, but in no list of requirements/; remove or pin it"
        elif pinned is not None and pinned.partition("+")[0] != package.version.partition("+")[0]:
            yield f"{name} {package.version} is installed, the lists pin {pinned}; run make setup"


def strange_starts(installed: Iterable[Distribution], packages: Path) -> Iterator[str]:
    """Files that run whenever Python starts and that no package owns: how the LiteLLM packages of March 2026 stole."""
    owned = {file.name for package in installed for file in package.files or () if file.suffix == ".pth"}
    for path in [*packages.glob("*.pth"), *packages.glob("sitecustomize.py"), *packages.glob("usercustomize.py")]:
        if path.name not in owned:
            yield f"{path.name} in site-packages runs at every start of Python and belongs to no package; look at it"


def binding_licences(installed: Iterable[Distribution]) -> Iterator[str]:
    """Packages whose licence would bind the code of those who use us; the lesser GPL does not."""
    for package in installed:
        metadata = package.metadata
        told = str((metadata.get_all("License-Expression") or metadata.get_all("License") or [""])[0]).partition("\n")[
            0
        ]
        licence = f"{told} {' '.join(metadata.get_all('Classifier') or ())}".replace("LGPL", "").replace("Lesser", "L")
        if _BINDING.search(licence) and " OR " not in told:
            yield f"{package.name} is under '{told}', which would bind our users; replace it"


def known_flaws(pins: Mapping[str, str], database: str) -> list[str]:
    """Known flaws of the pinned versions, in one question to an OSV database; raises `httpx.HTTPError`."""
    packages = sorted(pins.items())
    queries = [
        {"package": {"ecosystem": "PyPI", "name": name}, "version": version.partition("+")[0]}
        for name, version in packages
    ]
    answer = httpx.post(database, json={"queries": queries}, timeout=_TIMEOUT)
    answer.raise_for_status()
    found = zip(packages, answer.json()["results"], strict=True)
    return [
        f"{name} {version}: {flaw['id']}" for (name, version), one in found for flaw in (one or {}).get("vulns", ())
    ]


if __name__ == "__main__":
    main()
