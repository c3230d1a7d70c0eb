"""Opening the key office with what the settings say."""

from sqlalchemy import Engine

from gateway.keys.office import KeyOffice
from gateway.keys.pepper import load_pepper
from gateway.settings import Settings


def open_keys(settings: Settings, database: Engine, admin_key: str) -> KeyOffice:
    """The office over a database; raises `PepperError` when this gateway cannot check the keys in it."""
    given = settings.key_pepper
    pepper = load_pepper(settings.data_dir, None if given is None else given.get_secret_value())
    return KeyOffice(database, admin_key, pepper)
