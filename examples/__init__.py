"""Complete, runnable examples: data, recipe, evaluation, and the demo that runs them."""
