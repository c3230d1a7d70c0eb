"""vLLM plugin, runs inside the engine's processes: patches of known defects, adapter residency, token counts."""
