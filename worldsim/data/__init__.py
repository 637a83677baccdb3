"""Recorded data: episodes, windows of them, and their files."""
