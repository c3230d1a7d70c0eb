"""Gates: what a version must show before it goes live: a verdict that counts, and a second person's approval."""
