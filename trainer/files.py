"""Write files atomically, with disk errors as one sentence, and read TOML files into pydantic models."""

import contextlib
import os
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from trainer.errors import RecipeError, RunError


@contextlib.contextmanager
def disk(path: Path) -> Iterator[None]:
    """Turn a failure to write `path` into a `RunError` with the fix."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(
            f"{path} cannot be written ({reason}); free space, fix permissions or choose another place."
        ) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Yield a text file that replaces `path` on success and is removed on failure."""
    with disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with disk(path), os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            os.fchmod(file.fileno(), 0o644)
        with disk(path):
            Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


ModelT = TypeVar("ModelT", bound=BaseModel)


def read_toml(path: Path, model: type[ModelT]) -> ModelT:
    """Read `path` into `model`, with its field `directory` set to the file's folder; raises `RecipeError` per field."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}); give the path of a TOML file.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not valid TOML: {error}.") from error
    if "directory" in document:
        raise RecipeError(f"{path}: directory is not a field; {_accepted(model, ())}.")
    return validated({**document, "directory": path.parent}, model, str(path))


def validated(document: dict[str, Any], model: type[ModelT], origin: str) -> ModelT:
    """Return the document as a `model`; raises `RecipeError`, with the origin, per invalid field."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RecipeError("\n".join(f"{origin}: {line}" for line in _sentences(error, model))) from error


def _sentences(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    for detail in error.errors():
        location = tuple(str(part) for part in detail["loc"])
        field = ".".join(location)
        match detail["type"]:
            case "extra_forbidden":
                yield f"{field} is not a field; {_accepted(model, location[:-1])}."
            case "missing":
                yield f"{field} is missing; set it."
            case "value_error":
                reason = str(detail["ctx"]["error"])
                yield f"{field} {reason}" if field else reason
            case _:
                yield f"{field} is {detail['input']!r}: {_lower(detail['msg'])}."


def _accepted(model: type[BaseModel], table: tuple[str, ...]) -> str:
    """Return the fields of a table of the file, e.g. `[lora] accepts r, lora_alpha`."""
    for name in table:
        annotation: Any = model.model_fields[name].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), model)
    names = ", ".join(name for name in model.model_fields if name != "directory")
    return f"[{'.'.join(table)}] takes {names}" if table else f"a file of this kind takes {names}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
