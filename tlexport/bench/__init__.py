"""Measuring: the clock, a process of its own for each model, the environment."""
