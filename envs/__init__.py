"""Bundled games: small, deterministic under a seed, drawn with numpy, with true state in info."""
