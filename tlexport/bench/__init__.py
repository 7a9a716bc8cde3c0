"""Measure models: timing, one process per model, the environment."""
