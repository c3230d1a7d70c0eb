"""The trainer's commands, one module with an `app` for each; `turntable.cli` imports the one that is called."""
