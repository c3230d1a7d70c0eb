"""Watching: what live answers are like beside those learnt from, what people say of them, and when to train again."""
