"""The embedded base model: a small chat model that is built on first use, so that the whole loop runs anywhere."""

from trainer.base_model.build import BaseModelError, BuildProgress, Sizes, build_base_model

__all__ = ["BaseModelError", "BuildProgress", "Sizes", "build_base_model"]
