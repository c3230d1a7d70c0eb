"""A recipe that builds in seconds, what it builds, and the real embedded base model."""

from pathlib import Path

import pytest

from trainer.base_model import Sizes, build_base_model
from trainer.training.base import prepare_libraries

prepare_libraries()

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def tiny() -> Sizes:
    """Large enough to take a few dozen steps, too small to say anything."""
    return Sizes(
        vocabulary=400,
        hidden=64,
        layers=1,
        heads=1,
        intermediate=64,
        context=256,
        conversations=60,
        drills=40,
        row_tokens=64,
        rows_per_step=8,
    )


@pytest.fixture(scope="session")
def tiny_model(tiny: Sizes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of that recipe and seed 0."""
    return build_base_model(tmp_path_factory.mktemp("tiny") / "base-model", sizes=tiny)


@pytest.fixture(scope="session")
def real_model() -> Path:
    """The embedded base model where the product keeps it; the first call of a checkout builds it."""
    return build_base_model(ROOT / "var" / "base-model")
