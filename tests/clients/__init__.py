"""Other people's clients and tools against the gateway: what they expect of an OpenAI or Anthropic server."""
