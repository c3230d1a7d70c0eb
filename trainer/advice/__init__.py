"""Should this be fine-tuned at all? A case, the rules that judge it, and the advice that later runs carry."""
