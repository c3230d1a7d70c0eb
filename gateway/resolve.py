"""Resolve: from the model a client named to the base model or one exact adapter version."""

from dataclasses import dataclass

from adapters import AdapterRef, InvalidRefError, Registry, State, UnknownAdapterError, Version
from gateway.errors import ModelNotFoundError


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: `model` is the client's word, `engine_model` the engine's; the base has no `version`."""

    model: str
    engine_model: str
    version: Version | None

    @property
    def label(self) -> str:
        """The adapter's name, or the base's: a value from a closed list, fit for metrics and reports."""
        return self.version.name if self.version else self.engine_model


class Resolver:
    """Reads the registry's snapshot; never touches the database or the engine."""

    def __init__(self, registry: Registry, served_model_name: str) -> None:
        self._registry = registry
        self._base = Target(served_model_name, served_model_name, None)

    def resolve(self, model: str) -> Target:
        """The target of a model name or ref; raises `ModelNotFoundError` for whatever may not be routed to."""
        if model == self._base.model:
            return self._base
        try:
            version = self._registry.snapshot.resolve(AdapterRef.parse(model))
        except (InvalidRefError, UnknownAdapterError) as error:
            raise ModelNotFoundError(model) from error
        if version.state is not State.READY:
            raise ModelNotFoundError(model)
        return Target(model, version.engine_name, version)
