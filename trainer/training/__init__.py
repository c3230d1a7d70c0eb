"""One training run: recipe, prepared rows with their loss mask, model, loop, checkpoints, and the files it leaves."""
