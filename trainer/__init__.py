"""The trainer: from a JSONL file of conversations to an evaluated adapter.

`data` checks, converts and splits rows; `training` trains an adapter from a recipe; `eval` compares it with the base
and the prompted base through a gateway and computes the verdict; `human_eval` collects pairwise ratings; `report`
renders the decision; `advice` says whether fine-tuning is worth trying. Torch is imported only where it is needed.
"""
