"""Evaluate an adapter: a frozen task, several arms asked through the gateway, metrics with intervals, and a verdict.

`task` says what to measure, `examples` reads the test rows, `arms` writes the prompts, `runner` collects the answers,
`metrics` and `statistics` measure them, `gate` computes the verdict, `report` keeps all of it.
"""
