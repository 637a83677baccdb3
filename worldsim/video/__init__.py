"""Guests: the video pipelines of diffusers."""
