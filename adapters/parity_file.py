"""parity.json: log-probabilities of some conversations, token by token, by the trainer's own weights.

It is evidence about a version and not part of its content: the digest covers config and weights only, and the engine
never reads the file. `trainer/training/parity.py` writes it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel as Schema
from pydantic import ConfigDict, Field, ValidationError

from adapters.base_model import BaseModel
from adapters.errors import PreflightError
from adapters.manifest import PARITY_FILE

MAX_ROWS = 32
MAX_TOKENS = 512
_MAX_BYTES = 2 << 20
_FIX = "leave the file out, or give the one that `turntable train` wrote"
_LogProbability = Annotated[float, Field(ge=-1e4, le=1e-3, allow_inf_nan=False)]


class ParityRow(Schema):
    """One conversation: `base` and `adapter` are log p(input_ids[position] | all ids before it), natural logarithm."""

    model_config = ConfigDict(frozen=True)

    input_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_TOKENS)]
    positions: list[int]
    base: list[_LogProbability]
    adapter: list[_LogProbability]


class _Document(Schema):
    format: Literal[1]
    rows: Annotated[list[ParityRow], Field(max_length=MAX_ROWS)]


def read_parity(directory: Path, base: BaseModel | None = None) -> Sequence[ParityRow]:
    """Read an adapter's parity.json; empty without one.

    Raises `PreflightError` when they are not what the trainer writes or, with `base`, name tokens that it has not.
    """
    path = directory / PARITY_FILE
    if not path.is_file():
        return ()
    if path.stat().st_size > _MAX_BYTES:
        raise PreflightError(PARITY_FILE, f"is larger than {_MAX_BYTES >> 20} MiB; {_FIX}.")
    try:
        rows = _Document.model_validate_json(path.read_bytes()).rows
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise PreflightError(f"{PARITY_FILE}: {where}" if where else PARITY_FILE, f"{first['msg']}; {_FIX}.") from error
    for number, row in enumerate(rows):
        if problem := _problem(row, _vocabulary(base)):
            raise PreflightError(f"{PARITY_FILE}: rows.{number}", f"{problem}; {_FIX}.")
    return rows


def _problem(row: ParityRow, vocabulary: int | None) -> str:
    if not len(row.positions) == len(row.base) == len(row.adapter):
        return "has not one log-probability of base and adapter for each position"
    if any(not 0 < position < len(row.input_ids) for position in row.positions):
        return "has a position outside its ids"
    if vocabulary is not None and max(row.input_ids, default=0) >= vocabulary:
        return f"has a token id that the served base has not: its vocabulary ends at {vocabulary}"
    return ""


def _vocabulary(base: BaseModel | None) -> int | None:
    shapes = base.modules.items() if base is not None else ()
    return next((shape[0] for name, shape in shapes if name.endswith("embed_tokens")), None)
