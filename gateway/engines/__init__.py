"""Everything that knows vLLM: its URLs, its process, its adapters."""
