"""The video pipelines of diffusers: generate, chain, measure, and count their cost."""
