"""Which base model and chat template are served right now: what a verdict must have been reached on."""

from dataclasses import dataclass
from typing import Any

from adapters import BaseModel


@dataclass(frozen=True)
class ServedBase:
    """The base as requests meet it; `files` is None when the gateway is attached to engines and has none at hand.

    Hashes of what is not at hand are None and are not compared with anything.
    """

    name: str
    files: BaseModel | None

    @property
    def base_sha256(self) -> str | None:
        """Identity of the very weights; reads them on first use, which may take seconds."""
        return self.files.weights_sha256 if self.files else None

    @property
    def template_sha256(self) -> str | None:
        """Identity of the chat template."""
        return self.files.chat_template_sha256 if self.files else None

    def document(self) -> dict[str, Any]:
        """As JSON, in the words of a verdict."""
        return {"model": self.name, "base_sha256": self.base_sha256, "template_sha256": self.template_sha256}
