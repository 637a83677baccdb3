"""Games of our own: small, deterministic under a seed, drawn with numpy, true state in info."""
