"""One inference request from its body to its last byte: guards, routing, admission, the engine's answer, settlement."""
