"""Runtimes, one file each; see docs/plugins.md."""
