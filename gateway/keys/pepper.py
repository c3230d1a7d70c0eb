"""The pepper: the secret that keys are hashed under, kept beside the data and never in the database."""

import secrets
from pathlib import Path

from gateway.keys.secret_file import MIN_CHARS, load_or_create_secret

PEPPER_FILE = "key.pepper"


class PepperError(Exception):
    """The pepper cannot be used; the message says how to come by the right one."""


def load_pepper(data_dir: Path, given: str | None) -> str:
    """The pepper from the settings, else the one in `<data dir>/key.pepper` (mode 0600, made when first needed)."""
    if given is not None:
        return _long_enough(given, "The setting key_pepper")
    path = data_dir / PEPPER_FILE
    try:
        kept, _ = load_or_create_secret(path, secrets.token_hex(32))
    except OSError as error:
        raise PepperError(f"{path} cannot be read or written ({error.strerror}).") from error
    return _long_enough(kept, f"The pepper in {path}")


def mismatch() -> PepperError:
    """Keys in this database were hashed under another pepper."""
    return PepperError(
        "The keys in this database were made with another pepper, so none of them would be accepted: give this gateway "
        f"the {PEPPER_FILE} or the setting key_pepper of the gateway that made them."
    )


def _long_enough(pepper: str, what: str) -> str:
    if len(pepper) < MIN_CHARS:
        raise PepperError(
            f"{what} has {len(pepper)} characters and needs {MIN_CHARS} or more; put back the one that the keys were "
            "made with, or make one with `openssl rand -hex 32`."
        )
    return pepper
