"""Backbones, one file for each family; see docs/plugins.md."""
