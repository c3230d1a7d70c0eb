"""The trainer: from a JSONL file of conversations to an adapter that is proven on held-out rows.

`recipe` says what to train, `data` gets the data right, `rendering` turns conversations into token
ids and labels, `train` runs the optimisation, `artifact` leaves a checked run directory, `publish` hands it to a
gateway, and `proof` compares it with base and prompted base through that gateway and decides. Torch is imported only
by what needs it.
"""
