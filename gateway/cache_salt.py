"""Salts for the engine's cache of prompts: what one tenant asked is not found there by another.

The engine tells how many tokens of a prompt it had cached, so a shared cache tells whoever asks what others asked.
"""

from collections.abc import Callable


class CacheSalts:
    """Gives each tenant a salt that nobody else can have; `digest` hashes under a secret of this installation."""

    def __init__(self, digest: Callable[[bytes], bytes], *, is_shared: bool) -> None:
        self._digest = digest
        self._is_shared = is_shared

    def __call__(self, tenant: str, own: str | None) -> str | None:
        """The salt of a request; one that the client names (`own`) parts the tenant's own cache further. None when
        tenants share the cache and the client names none.
        """
        if self._is_shared and own is None:
            return None
        parts = (b"cache salt", tenant.encode("utf-8", "surrogatepass"), (own or "").encode("utf-8", "surrogatepass"))
        return self._digest(b"\0".join(parts)).hex()
